//! An API server that knows a few pods, for nodes that are to think that they run in them.
//!
//! It lists, watches and gets pods over plain HTTP, as far as a worker asks for it. The pods of a
//! cluster have addresses of loopback and share their ports, as pods do.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::Space;

/// A watch looks up now and then whether its client is still there.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Default)]
struct State {
    version: u64,
    pods: BTreeMap<String, Value>,
    /// What happened, by version.
    events: Vec<(u64, &'static str, Value)>,
}

#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<(Mutex<State>, Condvar)>,
    config: PathBuf,
}

impl ApiServer {
    /// Serves until the process ends.
    pub fn start(space: &Space) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
        let address = listener.local_addr().expect("it is bound").to_string();
        let config = space.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [],
            "clusters": [{ "name": "c", "cluster": { "server": format!("http://{address}") } }],
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "" } }],
        });
        fs::write(&config, text.to_string()).expect("a file can be written");
        let server = Self { inner: Arc::default(), config };
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (server, Ok(stream)) = (accepting.clone(), stream) else { return };
                // Its client ends a connection as it likes.
                thread::spawn(move || drop(server.serve(stream)));
            }
        });
        server
    }

    /// For KUBE_CONFIG.
    pub fn config(&self) -> String {
        self.config.display().to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.0.lock().expect("no thread of this server panics")
    }

    /// Shows this pod from now on.
    pub fn apply(&self, name: &str, uid: &str, ip: &str) {
        self.put(json!({
            "metadata": { "name": name, "uid": uid },
            "status": { "phase": "Running", "podIP": ip },
        }));
    }

    /// The pod is being deleted.
    pub fn delete(&self, name: &str, grace: Duration) {
        let mut pod = self.state().pods.get(name).expect("a pod of that name").clone();
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.as_secs().into();
        self.put(pod);
    }

    fn put(&self, mut pod: Value) {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        pod["metadata"]["resourceVersion"] = version.to_string().into();
        let name = pod["metadata"]["name"].as_str().expect("a name").to_owned();
        let known = state.pods.insert(name, pod.clone()).is_some();
        state.events.push((version, if known { "MODIFIED" } else { "ADDED" }, pod));
        self.inner.1.notify_all();
    }

    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().transpose()?.unwrap_or_default();
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let target = request.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let field = |name: &str| {
            let mut fields = query.split('&').filter_map(|field| field.split_once('='));
            fields.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let selected = field("fieldSelector")
            .and_then(|selector| selector.strip_prefix("metadata.name%3D").map(str::to_owned));
        let wanted = |pod: &Value| {
            selected.as_ref().is_none_or(|name| pod["metadata"]["name"] == name.as_str())
        };
        if field("watch").is_some() {
            let since = field("resourceVersion").and_then(|at| at.parse().ok()).unwrap_or(0);
            return self.watch(stream, since, wanted);
        }
        let (code, body) = {
            let state = self.state();
            match path.split("/pods/").nth(1) {
                Some(name) => match state.pods.get(name) {
                    Some(pod) => ("200 OK", pod.clone()),
                    None => ("404 Not Found", json!({ "code": 404, "reason": "NotFound" })),
                },
                None => {
                    let items: Vec<&Value> =
                        state.pods.values().filter(|pod| wanted(pod)).collect();
                    let metadata = json!({ "resourceVersion": state.version.to_string() });
                    ("200 OK", json!({ "metadata": metadata, "items": items }))
                }
            }
        };
        answer(stream, code, &body.to_string())
    }

    fn watch(
        &self,
        mut stream: TcpStream,
        mut since: u64,
        wanted: impl Fn(&Value) -> bool,
    ) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        let mut gone = [0; 1];
        stream.set_nonblocking(true)?;
        loop {
            let news: Vec<_> = {
                let state = self.state();
                let look =
                    self.inner.1.wait_timeout_while(state, LOOK, |state| state.version <= since);
                let (state, _) = look.expect("no thread of this server panics");
                let news = state.events.iter().filter(|(version, ..)| *version > since);
                news.cloned().collect()
            };
            for (version, kind, pod) in news {
                since = version;
                if wanted(&pod) {
                    let event = json!({ "type": kind, "object": pod });
                    stream.write_all(format!("{event}\n").as_bytes())?;
                }
            }
            if matches!(stream.peek(&mut gone), Ok(0)) {
                return Ok(());
            }
        }
    }
}

fn answer(mut stream: TcpStream, code: &str, body: &str) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}
