//! A store of numbers outside of the cluster that compares tokens, for a host that keeps its state
//! there: it refuses a lower token of a shard than the highest it has seen.
//!
//! Lines of JSON over TCP, one answer for each question. A question may be asked again over another
//! connection, also while the first still waits in a socket: a write names the version that it
//! makes, so it is taken once.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

use super::net::Net;

/// The setting that names the store to a host.
pub const SETTING: &str = "CELLS";

/// What is asked under a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub shard: u32,
    pub epoch: u64,
    pub act: Act,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// From now on nobody with a lower token is heard.
    Claim,
    Read {
        key: String,
    },
    Write {
        key: String,
        cell: Cell,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Done,
    Holds(Cell),
    /// A newer token was seen, or another version is there.
    Refused,
}

/// What a key holds: nothing at version 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    pub value: i64,
    pub version: u64,
}

#[derive(Debug, Default)]
struct Shard {
    highest: u64,
    cells: BTreeMap<String, Cell>,
}

#[derive(Debug, Default)]
struct Cells {
    shards: BTreeMap<u32, Shard>,
    written: u64,
    refused: u64,
}

impl Cells {
    fn answer(&mut self, question: Question) -> Answer {
        let shard = self.shards.entry(question.shard).or_default();
        if question.epoch < shard.highest {
            self.refused += 1;
            return Answer::Refused;
        }
        shard.highest = question.epoch;
        match question.act {
            Act::Claim => Answer::Done,
            Act::Read { key } => Answer::Holds(shard.cells.get(&key).copied().unwrap_or_default()),
            Act::Write { key, cell } => {
                let held = shard.cells.entry(key).or_default();
                let next = cell.version == held.version + 1;
                if next {
                    *held = cell;
                    self.written += 1;
                }
                if next || *held == cell { Answer::Done } else { Answer::Refused }
            }
        }
    }
}

/// The store, where the clients of a scene are; gone when it is dropped.
#[derive(Debug)]
pub struct Store {
    cells: Arc<Mutex<Cells>>,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Store {
    /// Listens in the network of the calling thread, that of the clients.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime
            .block_on(TcpListener::bind((Net::clients(), 0)))
            .context("a store in the network of the clients")?;
        let (address, cells) = (listener.local_addr()?, Arc::<Mutex<Cells>>::default());
        let serving = cells.clone();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, serving.clone()));
            }
        });
        Ok(Self { cells, address, _runtime: runtime })
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Writes that were taken, and questions that were refused for their token.
    pub fn told(&self) -> (u64, u64) {
        let cells = self.cells.lock();
        (cells.written, cells.refused)
    }
}

async fn serve(socket: TcpStream, cells: Arc<Mutex<Cells>>) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let (read, mut write) = socket.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = cells.lock().answer(serde_json::from_str(&line)?);
        write.write_all(format!("{}\n", serde_json::to_string(&answer)?).as_bytes()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(cells: &mut Cells, epoch: u64, act: Act) -> Answer {
        cells.answer(Question { shard: 7, epoch, act })
    }

    fn write(value: i64, version: u64) -> Act {
        Act::Write { key: "k".to_owned(), cell: Cell { value, version } }
    }

    #[test]
    fn a_lower_token_is_refused_and_a_write_is_taken_once() {
        let mut cells = Cells::default();
        let read = || Act::Read { key: "k".to_owned() };
        assert_eq!(ask(&mut cells, 2, read()), Answer::Holds(Cell::default()));
        assert_eq!(ask(&mut cells, 2, write(5, 1)), Answer::Done);
        assert_eq!(ask(&mut cells, 2, write(5, 1)), Answer::Done, "asked again");
        assert_eq!(ask(&mut cells, 2, write(6, 1)), Answer::Refused, "another write was there");
        assert_eq!(ask(&mut cells, 3, Act::Claim), Answer::Done);
        assert_eq!(ask(&mut cells, 2, write(6, 2)), Answer::Refused);
        assert_eq!(ask(&mut cells, 2, read()), Answer::Refused);
        assert_eq!(ask(&mut cells, 3, read()), Answer::Holds(Cell { value: 5, version: 1 }));
        assert_eq!((cells.written, cells.refused), (1, 2));
    }
}
