//! The network: connections between machines, each way in order, over links that delay, hold
//! back and cut.
//!
//! As TCP it loses nothing while both ends live: what a cut link takes is sent again once it
//! heals. A connection ends by its ends, by a crash, or by a reset.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    task::Waker,
    time::Duration,
};

use super::{Crash, Place, place, random};

/// Bytes sent and not yet read by the other end.
const WINDOW: usize = 1 << 20;
/// After a link heals, a lost segment is sent again within this.
const RESEND: Duration = Duration::from_millis(400);
/// Within one machine.
const LOOPBACK: Duration = Duration::from_micros(50);

type Id = u64;

/// All links, connections and open ports.
#[derive(Default)]
pub struct Wires {
    sockets: BTreeMap<Id, Socket>,
    ports: BTreeMap<SocketAddr, Port>,
    flying: BTreeMap<(Duration, u64), Segment>,
    /// Of links that are cut.
    held: BTreeMap<(Place, Place), VecDeque<Segment>>,
    cut: BTreeSet<(Place, Place)>,
    slow: BTreeMap<(Place, Place), Duration>,
    /// When the last segment of each connection and direction arrives: the next is not earlier.
    last: BTreeMap<Id, Duration>,
    doomed: BTreeSet<Place>,
    dark: BTreeSet<Place>,
    next: u64,
    /// Segments that a cut link has taken: shows that a cut was felt.
    pub taken: u64,
    pub delivered: u64,
}

struct Socket {
    place: Place,
    local: SocketAddr,
    remote: SocketAddr,
    peer: Option<Id>,
    inbox: VecDeque<u8>,
    /// No more bytes come; an error where the connection broke.
    ended: Option<Result<(), io::ErrorKind>>,
    /// Sent by this end and not yet read.
    unread: usize,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Default)]
struct Port {
    waiting: VecDeque<Id>,
    acceptor: Option<Waker>,
}

struct Segment {
    from: Place,
    to: Place,
    /// The connection's end that it is for; of a Syn the one that asks.
    socket: Id,
    what: What,
}

enum What {
    Syn(SocketAddr),
    SynAck(Id),
    Data(Vec<u8>),
    Fin,
    Reset,
}

impl Socket {
    fn end(&mut self, how: Result<(), io::ErrorKind>, woken: &mut Vec<Waker>) {
        if how.is_err() || self.ended.is_none() {
            self.ended = Some(how);
        }
        woken.extend(self.reader.take());
        woken.extend(self.writer.take());
    }
}

impl Wires {
    /// Nothing passes from one machine to the other.
    pub fn cut(&mut self, from: Place, to: Place) {
        self.cut.insert((from, to));
    }

    pub fn mend(&mut self, from: Place, to: Place, now: Duration) {
        if !self.cut.remove(&(from, to)) {
            return;
        }
        let held = self.held.remove(&(from, to)).unwrap_or_default();
        let resent = now + RESEND.mul_f64(random::fraction());
        for segment in held {
            self.fly(resent, segment);
        }
    }

    pub fn mend_all(&mut self, now: Duration) {
        for (from, to) in self.cut.clone() {
            self.mend(from, to, now);
        }
        self.slow.clear();
    }

    /// No link is slow any more.
    pub fn quicken(&mut self) {
        self.slow.clear();
    }

    /// Adds to the delay of a link.
    pub fn slow(&mut self, from: Place, to: Place, by: Duration) {
        self.slow.insert((from, to), by);
    }

    /// Breaks every connection between two machines.
    pub fn reset(&mut self, one: Place, other: Place) -> Vec<Waker> {
        let mut woken = Vec::new();
        let between = |socket: &Socket| {
            let peer = place(socket.remote.ip());
            (socket.place == one && peer == Some(other))
                || (socket.place == other && peer == Some(one))
        };
        for socket in self.sockets.values_mut().filter(|socket| between(socket)) {
            socket.end(Err(io::ErrorKind::ConnectionReset), &mut woken);
        }
        woken
    }

    pub(super) fn doom(&mut self, place: Place) {
        self.doomed.insert(place);
    }

    /// Whether the machine has power.
    pub fn power(&mut self, place: Place, on: bool) {
        if on {
            self.dark.remove(&place);
        } else {
            self.dark.insert(place);
        }
    }

    pub(super) fn crash(&mut self, at: Place, how: Crash, now: Duration) -> Vec<Waker> {
        self.doomed.remove(&at);
        self.ports.retain(|address, _| place(address.ip()) != Some(at));
        let gone: Vec<_> = self
            .sockets
            .iter()
            .filter(|(_, socket)| socket.place == at)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(socket) = self.sockets.remove(&id) else { continue };
            if let (Crash::Process, Some(peer)) = (how, socket.peer) {
                self.send(now, at, peer, What::Reset);
            }
        }
        if how == Crash::Power {
            self.dark.insert(at);
        }
        Vec::new()
    }

    pub(super) fn listen(&mut self, address: SocketAddr) -> io::Result<()> {
        if self.ports.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.ports.insert(address, Port::default());
        Ok(())
    }

    pub(super) fn unused_port(&mut self) -> u16 {
        self.next += 1;
        20_000 + (self.next % 40_000) as u16
    }

    /// Stops listening; those that wait are handed out.
    pub(super) fn unlisten(&mut self, address: SocketAddr) -> Vec<Id> {
        self.ports.remove(&address).map(|port| port.waiting.into()).unwrap_or_default()
    }

    pub(super) fn poll_accept(
        &mut self,
        address: SocketAddr,
        waker: &Waker,
    ) -> Option<io::Result<Id>> {
        let Some(port) = self.ports.get_mut(&address) else {
            return Some(Err(io::ErrorKind::NotConnected.into()));
        };
        let found = port.waiting.pop_front();
        if found.is_none() {
            port.acceptor = Some(waker.clone());
        }
        found.map(Ok)
    }

    /// Begins a connection; the socket is usable once the other end has answered.
    pub(super) fn connect(
        &mut self,
        from: Place,
        local: SocketAddr,
        to: SocketAddr,
        now: Duration,
    ) -> Id {
        let id = self.socket(from, local, to, None);
        let target = place(to.ip()).unwrap_or(Place::MAX);
        self.fly_over(now, Segment { from, to: target, socket: id, what: What::Syn(to) });
        id
    }

    /// None: not yet.
    pub(super) fn poll_connected(&mut self, id: Id, waker: &Waker) -> Option<io::Result<()>> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Some(Err(io::ErrorKind::ConnectionRefused.into()));
        };
        if socket.peer.is_some() {
            return Some(Ok(()));
        }
        if let Some(Err(kind)) = socket.ended {
            return Some(Err(kind.into()));
        }
        socket.writer = Some(waker.clone());
        None
    }

    fn socket(
        &mut self,
        place: Place,
        local: SocketAddr,
        remote: SocketAddr,
        peer: Option<Id>,
    ) -> Id {
        self.next += 1;
        let socket = Socket {
            place,
            local,
            remote,
            peer,
            inbox: VecDeque::new(),
            ended: None,
            unread: 0,
            reader: None,
            writer: None,
        };
        self.sockets.insert(self.next, socket);
        self.next
    }

    pub(super) fn addresses(&self, id: Id) -> Option<(SocketAddr, SocketAddr)> {
        self.sockets.get(&id).map(|socket| (socket.local, socket.remote))
    }

    /// Takes bytes, or only looks at them. None: there are none yet.
    pub(super) fn poll_read(
        &mut self,
        id: Id,
        out: &mut [u8],
        take: bool,
        waker: &Waker,
    ) -> (Option<io::Result<usize>>, Option<Waker>) {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return (Some(Err(io::ErrorKind::NotConnected.into())), None);
        };
        if socket.inbox.is_empty() {
            return match socket.ended {
                Some(Ok(())) => (Some(Ok(0)), None),
                Some(Err(kind)) => (Some(Err(kind.into())), None),
                None => {
                    socket.reader = Some(waker.clone());
                    (None, None)
                }
            };
        }
        let length = out.len().min(socket.inbox.len());
        for (byte, found) in out.iter_mut().zip(&socket.inbox) {
            *byte = *found;
        }
        if !take {
            return (Some(Ok(length)), None);
        }
        socket.inbox.drain(..length);
        let peer = socket.peer.and_then(|peer| self.sockets.get_mut(&peer));
        let woken = peer.and_then(|peer| {
            peer.unread = peer.unread.saturating_sub(length);
            peer.writer.take()
        });
        (Some(Ok(length)), woken)
    }

    pub(super) fn poll_write(
        &mut self,
        id: Id,
        bytes: &[u8],
        waker: &Waker,
        now: Duration,
    ) -> Option<io::Result<usize>> {
        let Some(socket) = self.sockets.get_mut(&id) else {
            return Some(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if let Some(Err(kind)) = socket.ended {
            return Some(Err(kind.into()));
        }
        let (peer, there) = (socket.peer, place(socket.remote.ip()));
        let vanished = peer.is_some_and(|peer| !self.sockets.contains_key(&peer));
        if vanished && !there.is_some_and(|there| self.dark.contains(&there)) {
            return Some(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let socket = self.sockets.get_mut(&id)?;
        let room = WINDOW.saturating_sub(socket.unread);
        if room == 0 {
            socket.writer = Some(waker.clone());
            return None;
        }
        let length = bytes.len().min(room);
        socket.unread += length;
        let from = socket.place;
        if let Some(peer) = peer {
            self.send(now, from, peer, What::Data(bytes[..length].to_vec()));
        }
        Some(Ok(length))
    }

    /// No more is sent from this end; `gone`: nor read.
    pub(super) fn close(&mut self, id: Id, gone: bool, now: Duration) {
        let Some(socket) = self.sockets.get(&id) else { return };
        let (from, peer) = (socket.place, socket.peer);
        if let Some(peer) = peer
            && !self.doomed.contains(&from)
        {
            self.send(now, from, peer, What::Fin);
        }
        if gone && !self.doomed.contains(&from) {
            self.sockets.remove(&id);
            self.last.remove(&id);
        }
    }

    fn send(&mut self, now: Duration, from: Place, socket: Id, what: What) {
        if self.doomed.contains(&from) {
            return;
        }
        let Some(to) = self.sockets.get(&socket).map(|socket| socket.place) else { return };
        self.fly_over(now, Segment { from, to, socket, what });
    }

    fn fly_over(&mut self, now: Duration, segment: Segment) {
        let link = (segment.from, segment.to);
        if self.cut.contains(&link) {
            self.taken += 1;
            return self.held.entry(link).or_default().push_back(segment);
        }
        let delay = if link.0 == link.1 {
            LOOPBACK
        } else {
            // Mostly fast, at times slow.
            let usual = Duration::from_micros(200 + random::below(1_300));
            let late = if random::below(200) == 0 { random::below(30) } else { 0 };
            let slow = self.slow.get(&link).copied().unwrap_or_default();
            usual + Duration::from_millis(late) + slow
        };
        self.fly(now + delay, segment);
    }

    fn fly(&mut self, at: Duration, segment: Segment) {
        let last = self.last.entry(segment.socket).or_default();
        let at = at.max(*last);
        *last = at;
        self.next += 1;
        self.flying.insert((at, self.next), segment);
    }

    /// Delivers what is due; whoever must be woken is returned.
    pub(super) fn deliver(&mut self, now: Duration) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let segment = entry.remove();
            // A link that was cut meanwhile takes what is on it.
            let link = (segment.from, segment.to);
            if self.cut.contains(&link) {
                self.taken += 1;
                self.held.entry(link).or_default().push_back(segment);
            } else if !self.dark.contains(&segment.to) {
                self.delivered += 1;
                self.arrive(segment, now, &mut woken);
            }
        }
        woken
    }

    fn arrive(&mut self, segment: Segment, now: Duration, woken: &mut Vec<Waker>) {
        let Segment { to, socket: id, what, .. } = segment;
        match what {
            What::Syn(address) => {
                let Some(asking) = self.sockets.get(&id) else { return };
                let remote = asking.local;
                if !self.ports.contains_key(&address) {
                    return self.send(now, to, id, What::Reset);
                }
                let accepted = self.socket(to, address, remote, Some(id));
                if let Some(port) = self.ports.get_mut(&address) {
                    port.waiting.push_back(accepted);
                    woken.extend(port.acceptor.take());
                }
                self.send(now, to, id, What::SynAck(accepted));
            }
            What::SynAck(peer) => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.peer = Some(peer);
                    woken.extend(socket.writer.take());
                }
            }
            What::Data(bytes) => {
                let Some(socket) = self.sockets.get_mut(&id) else { return };
                if socket.place != to {
                    return;
                }
                socket.inbox.extend(bytes);
                woken.extend(socket.reader.take());
            }
            What::Fin => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    socket.end(Ok(()), woken);
                }
            }
            What::Reset => {
                if let Some(socket) = self.sockets.get_mut(&id) {
                    let kind = match socket.peer {
                        Some(_) => io::ErrorKind::ConnectionReset,
                        None => io::ErrorKind::ConnectionRefused,
                    };
                    socket.end(Err(kind), woken);
                }
            }
        }
    }
}
