//! Network namespaces of one scene: one for each node, one for the clients, and one that holds
//! the bridge between them. Nothing is made in the machine's own.
//!
//! Only this process names them, by open files: when it ends, however it ends, they end too.

use std::{
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _},
    process::Command,
    thread,
};

use anyhow::{Context as _, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// The network of all nodes and clients.
const PREFIX: &str = "10.77.0";
/// Where the clients are, and whatever asks the nodes.
const CLIENTS: usize = 250;
/// Name of the one link in each namespace.
pub const LINK: &str = "eth0";

/// One network namespace.
#[derive(Debug)]
pub struct Space {
    file: File,
}

impl Space {
    fn new() -> anyhow::Result<Self> {
        // A thread that ends afterwards: this one stays where it is.
        let made = thread::spawn(|| {
            leave_network()?;
            File::open("/proc/thread-self/ns/net").context("the namespace of a thread")
        });
        let file = made.join().map_err(|_| anyhow::anyhow!("no namespace was made"))??;
        Ok(Self { file })
    }

    /// As `ip` takes it: a path that lasts as long as this process.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Moves the calling thread there, and whatever it starts from now on.
    pub fn enter(&self) -> anyhow::Result<()> {
        enter(&self.file)
    }

    /// Does something there; the calling thread is back afterwards.
    pub fn within<T>(&self, act: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let here = File::open("/proc/thread-self/ns/net")?;
        self.enter()?;
        let done = act();
        enter(&here)?;
        done
    }

    /// Runs a program there to its end: what it printed.
    pub fn run(&self, words: &str) -> anyhow::Result<String> {
        self.within(|| run(words, None))
    }

    /// As `run`, with a text to read.
    pub fn feed(&self, words: &str, text: &str) -> anyhow::Result<String> {
        self.within(|| run(words, Some(text)))
    }
}

#[allow(unsafe_code)] // the only way to make a namespace without a program of its own
fn leave_network() -> anyhow::Result<()> {
    // SAFETY: a network namespace shares no file descriptors, which is what may be unsafe.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .context("a network namespace: run this as root")
}

fn enter(file: &File) -> anyhow::Result<()> {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .context("entering a network namespace")
}

fn run(words: &str, text: Option<&str>) -> anyhow::Result<String> {
    use std::{io::Write as _, process::Stdio};
    let all: Vec<_> = words.split_whitespace().collect();
    let mut child = Command::new(all[0])
        .args(&all[1..])
        .stdin(if text.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} does not start", all[0]))?;
    if let (Some(text), Some(mut stdin)) = (text, child.stdin.take()) {
        stdin.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words}: {told}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All namespaces of one scene.
#[derive(Debug)]
pub struct Net {
    pub nodes: Vec<Space>,
    clients: Space,
    _bridge: Space,
}

impl Net {
    pub fn new(nodes: usize) -> anyhow::Result<Self> {
        let bridge = Space::new()?;
        bridge.run("ip link add br0 type bridge")?;
        bridge.run("ip link set br0 up")?;
        let join = |at: usize| {
            let space = Space::new()?;
            let port = format!("port{at}");
            let path = space.path();
            bridge.run(&format!("ip link add {port} type veth peer name {LINK} netns {path}"))?;
            bridge.run(&format!("ip link set {port} master br0 up"))?;
            space.run(&format!("ip address add {PREFIX}.{at}/24 dev {LINK}"))?;
            space.run(&format!("ip link set {LINK} up"))?;
            space.run("ip link set lo up")?;
            anyhow::Ok(space)
        };
        let clients = join(CLIENTS)?;
        let nodes = (0..nodes).map(|at| join(at + 1)).collect::<anyhow::Result<_>>()?;
        Ok(Self { nodes, clients, _bridge: bridge })
    }

    /// Moves the calling thread to where the clients are.
    pub fn enter(&self) -> anyhow::Result<()> {
        self.clients.enter()
    }

    /// Address of a node.
    pub fn address(at: usize) -> String {
        format!("{PREFIX}.{}", at + 1)
    }

    /// Address of all clients.
    pub fn clients() -> String {
        format!("{PREFIX}.{CLIENTS}")
    }
}
