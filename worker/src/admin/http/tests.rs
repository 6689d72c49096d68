//! The port against clients of all manners.

use futures::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Fake {
    /// `/slow` waits for it.
    gate: Arc<Notify>,
}

impl Pages for Fake {
    const PATHS: &'static [&'static str] = &["/fast", "/large", "/slow"];

    fn page(&self, path: &str) -> Option<BoxFuture<'static, Page>> {
        let gate = self.gate.clone();
        match path {
            "/fast" => Some(async { Page::text(StatusCode::OK, "fast") }.boxed()),
            "/large" => Some(async { Page::text(StatusCode::OK, &"x".repeat(64 << 20)) }.boxed()),
            "/slow" => Some(
                async move {
                    gate.notified().await;
                    Page::text(StatusCode::OK, "slow")
                }
                .boxed(),
            ),
            _ => None,
        }
    }
}

struct Port {
    address: String,
    gate: Arc<Notify>,
    shutdown: CancellationToken,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn port(limits: Limits) -> Port {
    let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (gate, shutdown) = (Arc::new(Notify::new()), CancellationToken::new());
    let pages = Arc::new(Fake { gate: gate.clone() });
    tokio::spawn(serve(listener, pages, limits, shutdown.clone()));
    Port { address, gate, shutdown }
}

async fn say(port: &Port, request: &str) -> TcpStream {
    let mut socket = net::connect(&port.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    socket
}

async fn rest(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask(port: &Port, request: &str) -> String {
    rest(say(port, request).await).await
}

#[tokio::test]
async fn pages_are_found_and_others_are_answered_with_the_list() {
    let port = port(Limits::default());
    let answer = ask(&port, "GET /fast?verbose=1 HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("cache-control: no-store") && answer.ends_with("\r\n\r\nfast\n"));
    let answer = ask(&port, "GET /favicon.ico HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    assert!(answer.contains("there are /fast, /large, /slow"), "{answer}");
    let answer = ask(&port, "HEAD /fast HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.contains("content-length: 5") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn it_is_read_only_and_survives_garbage() {
    let port = port(Limits::default());
    let answer = ask(&port, "POST /fast HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"), "{answer}");
    for garbage in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}\0\0", "GET\r\n\r\n"] {
        let answer = ask(&port, garbage).await;
        assert!(!answer.contains(" 200 "), "{garbage:?}: {answer}");
    }
    let long = format!("GET /fast HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    let answer = ask(&port, &long).await;
    assert!(!answer.contains(" 200 "), "{answer}");
    assert!(ask(&port, "GET /fast HTTP/1.0\r\n\r\n").await.contains(" 200 "));
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_give_their_room_back() {
    let slow = Duration::from_millis(200);
    let port = port(Limits { connections: 1, ask: slow, take: slow });
    // One never finishes its question, one never takes its answer.
    for question in ["GET /fa", "GET /large HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let slow = say(&port, question).await;
        let answer = ask(&port, "GET /fast HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.contains(" 200 "), "{answer}");
        assert!(rest(slow).await.len() < 64 << 20, "{question:?} was served to its end");
    }
}

#[tokio::test]
async fn a_page_may_take_its_time() {
    let limits = Limits {
        ask: Duration::from_millis(50),
        take: Duration::from_millis(50),
        ..Limits::default()
    };
    let port = port(limits);
    let waiting = say(&port, "GET /slow HTTP/1.1\r\nhost: x\r\n\r\n").await;
    tokio::time::sleep(4 * limits.ask).await;
    port.gate.notify_one();
    assert!(rest(waiting).await.ends_with("\r\n\r\nslow\n"));
}
