//! Bytes that no client should send, on every port: each node lives on, other clients notice
//! nothing, no counter changes.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use shoal_tests::{Cluster, Counters, http, wait};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Connections that are opened and say nothing.
const IDLE: usize = 200;
/// A port may take this long to hang up on what it does not understand.
const LISTEN: Duration = Duration::from_secs(1);

/// A TLS 1.2 record with the beginning of a ClientHello.
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
    hello.extend((0..=240u8).cycle().take(249));
    hello
}

/// A frame of HTTP/2: 3 bytes of length, kind, flags, stream, and a body.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Bytes without a meaning, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn kinds() -> Vec<(&'static str, Vec<u8>)> {
    let settings = frame(0, 4, 0, 0, b"");
    let speaking = |rest: Vec<u8>| [PREFACE, &settings, &rest].concat();
    vec![
        ("noise", noise(64 << 10)),
        ("zeros", vec![0; 64 << 10]),
        ("one byte", vec![b'P']),
        ("half a preface", PREFACE[..11].to_vec()),
        ("a TLS hello", tls_hello()),
        ("HTTP/1", b"GET /readyz HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec()),
        (
            "HTTP/1 without an end",
            [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 256 << 10]].concat(),
        ),
        (
            "an upgrade",
            b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n".to_vec(),
        ),
        ("a preface and noise", [PREFACE, &noise(64 << 10)].concat()),
        ("an oversize frame", speaking(frame(0xff_ffff, 0, 0, 1, &noise(64 << 10)))),
        ("data for no stream", speaking(frame(5, 0, 0, 99, b"hello"))),
        ("a header block that does not decode", speaking(frame(64, 1, 4, 1, &[0xff; 64]))),
        ("headers without an end", speaking(frame(3, 1, 0, 1, b"\x82\x86\x84"))),
        ("a window of zero", speaking(frame(4, 8, 0, 0, &[0; 4]))),
        ("a thousand resets", speaking((0..1_000u32).flat_map(reset).collect())),
        ("a thousand pings", speaking(frame(8, 6, 0, 0, b"12345678").repeat(1_000))),
    ]
}

fn reset(at: u32) -> Vec<u8> {
    let stream = 2 * at + 1;
    let headers = frame(3, 1, 4, stream, b"\x83\x86\x84");
    [headers, frame(4, 3, 0, stream, &8u32.to_be_bytes())].concat()
}

/// Sends it, reads what comes back for a moment, and leaves without a word.
fn send(address: &str, bytes: &[u8]) {
    let mut socket = http::connect(address).unwrap();
    socket.set_read_timeout(Some(LISTEN)).unwrap();
    // The other side may hang up while this is written: then it was refused.
    if socket.write_all(bytes).is_ok() {
        let mut some = [0; 4_096];
        let _ = socket.read(&mut some);
    }
}

fn ports(cluster: &Cluster, at: usize) -> [String; 4] {
    let node = &cluster.nodes[at];
    [node.address(), node.raft_address(), node.admin_address(), node.http_address()]
}

#[test]
fn garbage_on_any_port_harms_nothing() {
    let mut cluster = Cluster::founded(3, 0);
    let mut counters = Counters::new(30);
    counters.add(&mut cluster.client(0));
    let before = cluster.settle(3);
    let mut bystander = cluster.client(1);
    for port in ports(&cluster, 1) {
        for (what, bytes) in kinds() {
            send(&port, &bytes);
            cluster.nodes[1].assert_runs();
            let answer = bystander.read("counter-0");
            assert_eq!(answer.map(|(value, _)| value).ok(), Some(1), "{what} at {port}");
        }
    }
    cluster.nodes[1].ready();
    counters.check(&mut bystander);
    let after = cluster.settle(3);
    assert_eq!(after.map_version, before.map_version, "nobody lost a shard");
    assert_eq!(after.leader_id, before.leader_id);
}

#[test]
fn connections_that_say_nothing_keep_nobody_out() {
    let mut cluster = Cluster::founded(1, 0);
    let mut counters = Counters::new(30);
    counters.add(&mut cluster.client(0));
    let mut silent = Vec::new();
    for port in ports(&cluster, 0) {
        for at in 0..IDLE {
            let mut socket = http::connect(&port).unwrap();
            if at % 2 == 1 {
                // Half open: it speaks the protocol, and then no more.
                socket.write_all(&[PREFACE, &frame(0, 4, 0, 0, b"")].concat()).unwrap();
            }
            silent.push(socket);
        }
    }
    counters.add(&mut cluster.client(0));
    cluster.nodes[0].ready();
    cluster.settle(1);
    assert_eq!(http::get(&cluster.nodes[0].http_address(), "/metrics").unwrap().0, 200);
    // The data port gives up on who does not say what it speaks.
    let mut mute = silent.swap_remove(0);
    wait::until("the data port closes a silent connection", || closed(&mut mute));
    counters.check(&mut cluster.client(0));
    cluster.nodes[0].leave();
}

fn closed(socket: &mut TcpStream) -> Result<(), String> {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    match socket.read(&mut [0; 64]) {
        Ok(0) => Ok(()),
        Ok(length) => Err(format!("{length} bytes came")),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
