//! The host: each shard claims its token at the store when it opens, writes there before it
//! acknowledges, and answers reads from memory, for which the right to serve is all it has.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use shoal_core::id::{Epoch, ShardId};
use shoal_tests::faults::cells::{Act, Answer, Cell, Question};
use shoal_worker::{
    call::AppError,
    host::api::{Error, HostCall, Method, ShardHost, Start, Step, Token},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time,
};
use tonic::Code;

/// Until a question is asked again over another connection: a link that was cut needs long to send
/// on an old one.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);
/// Questions that wait; a shard has one at a time.
const WAITING: usize = 1_024;
/// As the built-in host has them, so that the same clients call it.
const METHODS: [(&str, bool); 3] = [("get", true), ("put", true), ("incr", false)];

type Asked = (Question, oneshot::Sender<Answer>);
/// What is known of the cells of a shard. Held over a write: one at a time.
type Known = tokio::sync::Mutex<BTreeMap<String, Cell>>;

/// The host of one process.
pub struct Stored {
    store: Store,
    methods: Vec<Method>,
    shards: Mutex<BTreeMap<ShardId, Arc<Known>>>,
}

impl Stored {
    pub fn new(address: String) -> Self {
        let methods = METHODS.map(|(name, idempotent)| Method {
            name: Cow::Borrowed(name),
            idempotent,
            max_call: None,
            inline: false,
        });
        Self { store: Store::at(address), methods: methods.to_vec(), shards: Mutex::default() }
    }
}

impl ShardHost for Stored {
    fn methods(&self) -> &[Method] {
        &self.methods
    }

    fn reset(&self) -> Step<'_, ()> {
        self.shards.lock().clear();
        Box::pin(async { Ok(()) })
    }

    fn open(&self, shard: ShardId, epoch: Epoch, start: Start) -> Step<'_, ()> {
        Box::pin(async move {
            let known = self.shards.lock().get(&shard).cloned();
            if start == Start::Frozen && known.is_some() {
                return Ok(());
            }
            match self.store.ask(Token { shard, epoch }, Act::Claim).await {
                Answer::Done => {
                    self.shards.lock().insert(shard, Arc::default());
                    Ok(())
                }
                other => Err(Error::App(format!("shard {shard} is not claimed: {other:?}"))),
            }
        })
    }

    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<Bytes, AppError>> {
        let shard = call.ownership.token().shard;
        let known = self.shards.lock().get(&shard).cloned();
        let store = self.store.clone();
        Box::pin(async move {
            let known = known.ok_or_else(|| refuse(Code::Internal, "the shard is not open"))?;
            // Not dropped with the call: what is known must follow what was written.
            let run = tokio::spawn(async move { run(&store, &known, &call).await });
            run.await.unwrap_or_else(|error| Err(refuse(Code::Internal, &error.to_string())))
        })
    }

    fn close(&self, shard: ShardId) -> Step<'_, ()> {
        self.shards.lock().remove(&shard);
        Box::pin(async { Ok(()) })
    }
}

async fn run(store: &Store, known: &Known, call: &HostCall) -> Result<Bytes, AppError> {
    let bad = |_| refuse(Code::InvalidArgument, "not a decimal i64");
    let text = std::str::from_utf8(&call.payload).unwrap_or("?");
    let key = String::from_utf8_lossy(&call.key).into_owned();
    let mut known = known.lock().await;
    let held = match known.get(&key) {
        Some(cell) => *cell,
        None => match store.ask(call.ownership.token(), Act::Read { key: key.clone() }).await {
            Answer::Holds(cell) => cell,
            _ => return Err(refuse(Code::Unavailable, "another owner has claimed the shard")),
        },
    };
    known.insert(key.clone(), held);
    let (value, answer) = match call.method.as_str() {
        "get" if held.version == 0 => {
            return Err(refuse(Code::NotFound, "the key holds nothing"));
        }
        "get" => (held.value, held.value.to_string()),
        "put" => (text.parse().map_err(bad)?, String::new()),
        "incr" if text.is_empty() => (held.value + 1, (held.value + 1).to_string()),
        "incr" => {
            let value = held.value + text.parse::<i64>().map_err(bad)?;
            (value, value.to_string())
        }
        _ => return Err(refuse(Code::Unimplemented, "unknown method")),
    };
    if call.method == "put" || value != held.value {
        let cell = Cell { value, version: held.version + 1 };
        let token = call.ownership.check();
        let token = token.map_err(|lost| refuse(Code::Unavailable, &lost.to_string()))?;
        match store.ask(token, Act::Write { key: key.clone(), cell }).await {
            Answer::Done => known.insert(key, cell),
            _ => return Err(refuse(Code::Unavailable, "another owner has claimed the shard")),
        };
    }
    Ok(answer.into())
}

fn refuse(code: Code, message: &str) -> AppError {
    AppError { code: code as i32, message: message.to_owned() }
}

/// The store's address and what it is to be asked: taken by the first question, for before that
/// there is no runtime.
type Begin = (String, mpsc::Receiver<Asked>);

/// The way to the store.
#[derive(Clone)]
struct Store {
    questions: mpsc::Sender<Asked>,
    begin: Arc<Mutex<Option<Begin>>>,
}

impl Store {
    fn at(address: String) -> Self {
        let (questions, asked) = mpsc::channel(WAITING);
        Self { questions, begin: Arc::new(Mutex::new(Some((address, asked)))) }
    }

    /// Asks until there is an answer, for as long as that takes: a write that is given up might be
    /// taken later than what was read after it.
    async fn ask(&self, token: Token, act: Act) -> Answer {
        if let Some((address, asked)) = self.begin.lock().take() {
            tokio::spawn(carry(address, asked));
        }
        let question = Question { shard: token.shard.0, epoch: token.epoch.0, act };
        let (tell, told) = oneshot::channel();
        match self.questions.send((question, tell)).await {
            Ok(()) => told.await.unwrap_or(Answer::Refused),
            Err(_) => Answer::Refused,
        }
    }
}

async fn carry(address: String, mut asked: mpsc::Receiver<Asked>) {
    let mut line = None;
    while let Some((question, tell)) = asked.recv().await {
        loop {
            match time::timeout(PATIENCE, exchange(&address, &mut line, &question)).await {
                Ok(Ok(answer)) => break drop(tell.send(answer)),
                Ok(Err(_)) | Err(_) => line = None,
            }
            time::sleep(PAUSE).await;
        }
    }
}

async fn exchange(
    address: &str,
    line: &mut Option<BufReader<TcpStream>>,
    question: &Question,
) -> anyhow::Result<Answer> {
    // Put back only once it has answered.
    let mut open = match line.take() {
        Some(open) => open,
        None => {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            BufReader::new(socket)
        }
    };
    let asked = format!("{}\n", serde_json::to_string(question)?);
    open.get_mut().write_all(asked.as_bytes()).await?;
    let mut answer = String::new();
    open.read_line(&mut answer).await?;
    let answer = serde_json::from_str(&answer).context("no answer of the store")?;
    *line = Some(open);
    Ok(answer)
}
