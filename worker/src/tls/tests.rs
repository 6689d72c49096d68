//! Files good and bad, handshakes between two that trust each other or do not, who may speak
//! as whom, and files that change.

use std::{net::SocketAddr, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::authority::{Authority, Issued, Paths};
use super::*;
use crate::env::net::{self, TcpListener};

#[path = "../../../tests/src/authority.rs"]
mod authority;

struct Side {
    paths: Paths,
    tls: Tls,
    _directory: TempDir,
}

impl Side {
    fn new(issued: &Issued, trusted: &[&Authority], name: &str) -> Self {
        Self::with(issued, trusted, name, Clients::Optional)
    }

    fn with(issued: &Issued, trusted: &[&Authority], name: &str, clients: Clients) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::under(directory.path(), name);
        paths.fill(issued, trusted);
        let settings = Settings { files: files(&paths), clients };
        let tls = Tls::of_node(Some(&settings), name).unwrap();
        Self { paths, tls, _directory: directory }
    }

    fn names(&self) -> Arc<Names> {
        self.tls.0.as_ref().unwrap().material.load().names.clone()
    }
}

fn files(paths: &Paths) -> Files {
    Files { cert: paths.cert.clone(), key: paths.key.clone(), ca: paths.ca.clone() }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What the server makes of a client that says "hello", and what the client makes of the
/// server, which speaks first and answers what it heard.
async fn meet(server: &Tls, client: &Tls, name: &str) -> (io::Result<Caller>, io::Result<Vec<u8>>) {
    let (listener, address) = listen();
    let serving = async {
        let (socket, _) = net::accept(&listener).await?;
        let mut stream = server.accept_peer(socket).await?;
        stream.write_all(b"well, ").await?;
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await?;
        stream.write_all(&heard).await?;
        stream.shutdown().await?;
        Ok(stream.caller().clone())
    };
    let asking = async {
        let socket = net::connect(&address.to_string()).await?;
        let mut stream = client.connect(socket, name).await?;
        stream.write_all(b"hello").await?;
        stream.flush().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let both = async { tokio::join!(serving, asking) };
    tokio::time::timeout(Duration::from_secs(20), both).await.unwrap()
}

#[tokio::test]
async fn two_of_one_authority_know_each_other_by_name() {
    let authority = Authority::new("one");
    let a = Side::new(&authority.node(&["node-a", "localhost"]), &[&authority], "node-a");
    let b = Side::new(&authority.node(&["node-b"]), &[&authority], "node-b");
    let (caller, answer) = meet(&a.tls, &b.tls, "node-a").await;
    assert_eq!(answer.unwrap(), b"well, hello");
    let caller = caller.unwrap();
    assert_eq!(caller.must_be(Some("node-b")), Ok(()));
    assert_eq!(caller.must_be(Some("NODE-B")), Ok(()));
    assert_eq!(caller.must_be(None), Ok(()));
    let error = caller.must_be(Some("node-a")).unwrap_err().to_string();
    assert_eq!(error, "the certificate is of node-b, the message of \"node-a\"");
    assert_eq!(Caller::Trusted.must_be(Some("anybody")), Ok(()));
    for nobody in [Caller::Plain, Caller::Nameless] {
        let error = nobody.must_be(Some("node-a")).unwrap_err().to_string();
        assert_eq!(error, "node-a takes part only with a certificate of TLS_CA");
    }
}

#[tokio::test]
async fn a_client_s_certificate_is_no_node_s() {
    let authority = Authority::new("one");
    let node = Side::new(&authority.node(&["node-a"]), &[&authority], "node-a");
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::under(directory.path(), "client");
    paths.fill(&authority.client(&["node-b"]), &[&authority]);
    let client = Tls::of_client(Some(&files(&paths))).unwrap();
    let (caller, answer) = meet(&node.tls, &client, "node-a").await;
    assert_eq!(answer.unwrap(), b"well, hello", "administration takes it");
    let error = caller.unwrap().must_be(Some("node-b")).unwrap_err().to_string();
    assert_eq!(error, "the certificate is of node-b and for clients only, it is no node's");
}

#[tokio::test]
async fn who_answers_under_another_name_is_refused() {
    let authority = Authority::new("one");
    let a = Side::new(&authority.node(&["node-a"]), &[&authority], "node-a");
    let b = Side::new(&authority.node(&["node-b"]), &[&authority], "node-b");
    let (_, answer) = meet(&a.tls, &b.tls, "node-c").await;
    let said = failure(&answer.unwrap_err()).unwrap();
    assert!(said.contains("node-c") && said.contains("node-a"), "{said}");
}

#[tokio::test]
async fn another_authority_is_trusted_by_neither_side() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let a = Side::new(&ours.node(&["node-a"]), &[&ours], "node-a");
    let b = Side::new(&theirs.node(&["node-b"]), &[&theirs], "node-b");
    let (caller, answer) = meet(&a.tls, &b.tls, "node-a").await;
    assert!(caller.is_err() && answer.is_err(), "{caller:?} {answer:?}");
    // One who trusts both is still not trusted by the other.
    let both = Side::new(&theirs.node(&["node-b"]), &[&ours, &theirs], "node-b");
    let (caller, answer) = meet(&a.tls, &both.tls, "node-a").await;
    assert!(caller.is_err() && answer.is_err(), "{caller:?} {answer:?}");
    // Between two authorities everybody trusts both.
    let a = Side::new(&ours.node(&["node-a"]), &[&ours, &theirs], "node-a");
    let (caller, answer) = meet(&a.tls, &both.tls, "node-a").await;
    assert_eq!(caller.unwrap().must_be(Some("node-b")), Ok(()));
    assert_eq!(answer.unwrap(), b"well, hello");
}

#[tokio::test]
async fn plaintext_is_told_to_go_away_and_why() {
    let authority = Authority::new("one");
    let a = Side::new(&authority.node(&["node-a"]), &[&authority], "node-a");
    let (listener, address) = listen();
    let serving = async { a.tls.accept_peer(net::accept(&listener).await.unwrap().0).await.err() };
    let asking = async {
        let socket = net::connect(&address.to_string()).await.unwrap();
        let (_requests, connection) = h2::client::handshake(socket).await.unwrap();
        connection.await.unwrap_err()
    };
    let (served, told) = tokio::join!(serving, asking);
    assert_eq!(served.unwrap().to_string(), "it does not speak TLS");
    assert_eq!(told.reason(), Some(h2::Reason::INADEQUATE_SECURITY));
    assert!(format!("{told:?}").contains(REASON), "{told:?}");
}

/// The refusal is the answer to a request: one that comes before it could only be guessed at.
#[tokio::test]
async fn plaintext_is_refused_once_it_asks() {
    let authority = Authority::new("one");
    let a = Side::new(&authority.node(&["node-a"]), &[&authority], "node-a");
    let (listener, address) = listen();
    let serving = async { a.tls.accept_peer(net::accept(&listener).await.unwrap().0).await.err() };
    let asking = async {
        let mut socket = net::connect(&address.to_string()).await.unwrap();
        socket.write_all(PREFACE).await.unwrap();
        socket.write_all(&SETTINGS).await.unwrap();
        let mut told = [0; 64];
        let length = socket.read(&mut told).await.unwrap();
        assert_eq!(told[..length], SETTINGS);
        socket.write_all(&[0, 0, 0, HEADERS, 5, 0, 0, 0, 1]).await.unwrap();
        let mut told = Vec::new();
        socket.read_to_end(&mut told).await.unwrap();
        told
    };
    let (_, told) = tokio::join!(serving, asking);
    assert_eq!(told[3..17], GOAWAY);
}

#[tokio::test]
async fn the_data_port_demands_what_it_is_set_to() {
    let authority = Authority::new("one");
    let certified = Caller::Certified(Arc::new(Names::of_issued(&authority.client(&["a-client"]))));
    let callers = [Caller::Plain, Caller::Nameless, certified];
    let demanded = |clients| {
        let issued = authority.node(&["node-a"]);
        let side = Side::with(&issued, &[&authority], "node-a", clients);
        callers.each_ref().map(|caller| side.tls.demands(caller).is_some())
    };
    assert_eq!(demanded(Clients::Optional), [false, false, false]);
    assert_eq!(demanded(Clients::Required), [true, false, false]);
    assert_eq!(demanded(Clients::Mutual), [true, true, false]);
    assert_eq!(Tls::default().demands(&Caller::Trusted), None);
}

impl Names {
    fn of_issued(issued: &Issued) -> Self {
        use rustls_pki_types::pem::PemObject as _;
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
        Self::of(&certificate).unwrap()
    }
}

#[test]
fn names_and_addresses_are_held_exactly() {
    let authority = Authority::new("one");
    let names = Names::of_issued(&authority.node(&["node-a", "*.example.com", "127.0.0.1", "::1"]));
    for held in ["node-a", "Node-A", "127.0.0.1", "::1", "0:0:0:0:0:0:0:1"] {
        assert!(names.hold(held), "{held}");
    }
    for other in ["node-aa", "node-", "", "b.example.com", "127.0.0.2", "example.com"] {
        assert!(!names.hold(other), "{other}");
    }
    assert_eq!(names.to_string(), "node-a, *.example.com, 127.0.0.1, ::1");
    assert_eq!(host("[::1]:11000"), "::1");
    assert_eq!(host("node-a.example:11000"), "node-a.example");
    assert_eq!(host("node-a"), "node-a");
}

/// What is wrong with the files once `spoil` had them.
fn refused(spoil: impl FnOnce(&Authority, &Paths)) -> String {
    let authority = Authority::new("one");
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::under(directory.path(), "node");
    paths.fill(&authority.node(&["node-a", "localhost"]), &[&authority]);
    spoil(&authority, &paths);
    let settings = Settings { files: files(&paths), clients: Clients::Optional };
    let error = Tls::of_node(Some(&settings), "node-a").err().expect("it is refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error.replace(&directory.path().display().to_string(), "DIR")
}

fn write(path: &Path, text: &str) {
    crate::env::disk::write_atomic(path, text.as_bytes()).unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_remedy() {
    let gone = |path: &Path| crate::env::disk::remove_file(path).unwrap();
    let error = refused(|_, paths| gone(&paths.cert));
    assert_eq!(
        error,
        "TLS_CERT is \"DIR/node.crt\": there is no such file; name a PEM file that this process \
         may read"
    );
    assert!(refused(|_, paths| gone(&paths.key)).starts_with("TLS_KEY is \"DIR/node.key\""));
    assert!(refused(|_, paths| gone(&paths.ca)).starts_with("TLS_CA is \"DIR/node.ca\""));
    let error = refused(|_, paths| write(&paths.cert, "no PEM at all"));
    assert!(error.contains("TLS_CERT is \"DIR/node.crt\": it holds no certificate; "), "{error}");
    let error = refused(|_, paths| write(&paths.key, ""));
    assert!(error.contains("TLS_KEY is \"DIR/node.key\": it holds no private key; "), "{error}");
    let error = refused(|_, paths| write(&paths.ca, ""));
    assert!(error.contains("TLS_CA is \"DIR/node.ca\": it holds no certificate; "), "{error}");
    let error = refused(|authority, paths| write(&paths.key, &authority.node(&["node-a"]).key));
    assert!(error.contains("it is not the key of TLS_CERT DIR/node.crt; "), "{error}");
    let error = refused(|authority, paths| paths.fill(&authority.node(&["node-b"]), &[authority]));
    let both = "TLS_CERT is \"DIR/node.crt\": it names node-b, not RAFT_ID node-a; ";
    assert!(error.starts_with(both), "{error}");
    let error = refused(|_, paths| write(&paths.ca, &Authority::new("other").pem()));
    assert!(error.contains("TLS_CA DIR/node.ca does not vouch for it: "), "{error}");
    let error =
        refused(|authority, paths| paths.fill(&authority.client(&["node-a"]), &[authority]));
    assert!(error.contains("for servers and clients"), "{error}");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let error = refused(|_, paths| write(&paths.cert, garbage));
    assert!(error.starts_with("TLS_CERT is \"DIR/node.crt\": it is no X.509"), "{error}");
}

#[tokio::test]
async fn new_files_are_used_and_broken_ones_are_not() {
    let authority = Authority::new("one");
    let side = Side::new(&authority.node(&["node-a"]), &[&authority], "node-a");
    let (old, enabled) = (side.names(), side.tls.0.clone().unwrap());
    let take = || enabled.take(Bytes::read(&files(&side.paths)));
    write(&side.paths.cert, "broken");
    assert!(take().unwrap_err().to_string().contains("holds no certificate"));
    side.paths.fill(&authority.node(&["node-b"]), &[&authority]);
    assert!(take().unwrap_err().to_string().contains("names node-b, not RAFT_ID node-a"));
    assert!(Arc::ptr_eq(&side.names(), &old), "the old goes on");
    let tls = side.tls.clone();
    let following = tokio::spawn(async move { tls.look_every(Duration::from_millis(2)).await });
    let next = Authority::new("next");
    for (issued, trusted) in [
        (authority.node(&["node-a"]), &[&next, &authority][..]),
        (next.node(&["node-a"]), &[&next]),
    ] {
        side.paths.fill(&issued, trusted);
        let used = async {
            while *side.names() != Names::of_issued(&issued) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), used).await.unwrap();
        assert_eq!(side.tls.not_after(), Some(side.names().not_after));
    }
    following.abort();
}
