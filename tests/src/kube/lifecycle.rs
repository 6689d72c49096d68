//! Up and down of our own clusters. Up is idempotent: what runs, is whole and was made from the
//! same programs and settings is taken as it is; anything else is ended and made anew.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use rustix::process::Signal;

use super::{
    cgroup,
    component::{self, Component, DNS_READY, Node, Tier},
    pki,
    place::{self, Place},
    process::{Process, within},
    sandbox::Sandbox,
    volumes,
};
use crate::{
    http,
    image::{self, Image},
};

/// A cold start takes a few seconds on an idle machine, several times that on a busy one.
const READY: Duration = Duration::from_secs(120);
/// How long what should be whole may take to say so.
const STILL_READY: Duration = Duration::from_secs(20);
/// An API server that is told to end finishes what it began.
const ENDED: Duration = Duration::from_secs(30);

/// A cluster that runs.
#[derive(Debug, Clone)]
pub(crate) struct Running {
    pub place: Place,
    pub tier: Tier,
    pub sandbox: Sandbox,
}

/// The caller holds the place's lock.
pub(crate) fn up(place: &Place, tier: Tier) -> anyhow::Result<Running> {
    build()?;
    let stamp = stamp(place, tier)?;
    if let Some(sandbox) = Sandbox::find(place) {
        let running = Running { place: place.clone(), tier, sandbox };
        let same = fs::read_to_string(place.stamp()).is_ok_and(|made_from| made_from == stamp);
        if same && running.whole(STILL_READY).is_ok() {
            return Ok(running);
        }
    }
    down(place)?;
    let running = Running::make(place, tier)?;
    running.whole(READY).with_context(|| format!("see {}", place.directory().display()))?;
    // Last: what was interrupted before is made anew.
    fs::write(place.stamp(), stamp)?;
    Ok(running)
}

/// Ends everything of the cluster and forgets it; its logs stay.
pub(crate) fn down(place: &Place) -> anyhow::Result<()> {
    if let Some(sandbox) = Sandbox::find(place) {
        sandbox.destroy()?;
    }
    cgroup::remove(&place.cgroup())?;
    place.clear().with_context(|| place.directory().display().to_string())
}

impl Running {
    fn make(place: &Place, tier: Tier) -> anyhow::Result<Self> {
        place.lay_out()?;
        component::write_settings(place)?;
        pki::write(&place.directory().join("pki"))?;
        let harness = place.directory().join("shoal-kube");
        if fs::hard_link(place::harness()?, &harness).is_err() {
            fs::copy(place::harness()?, &harness)?;
        }
        cgroup::create(&place.cgroup(), &Node::ALL.map(Node::name))?;
        let running = Self { place: place.clone(), tier, sandbox: Sandbox::create(place)? };
        let components = Component::of(tier);
        let first = components.iter().position(|&one| one == Component::ApiServer);
        let (first, others) = components.split_at(first.context("no API server")? + 1);
        for &component in first {
            running.start(component)?;
        }
        if !tier.nodes().is_empty() {
            running.load(&pause_image(place)?)?;
        }
        within(READY, || running.api_ready())?;
        for &component in others {
            running.start(component)?;
        }
        if tier >= Tier::Kcm {
            running.kubectl(&["apply", "--server-side", "-f", "-"], volumes::CLASS)?;
        }
        Ok(running)
    }

    /// Every process runs, the API server answers, and every node says that it is ready.
    fn whole(&self, patience: Duration) -> anyhow::Result<()> {
        within(patience, || {
            if let Some(ended) = self.ended().next() {
                bail!("{} does not run", ended.name());
            }
            self.api_ready()?;
            for node in self.tier.nodes() {
                let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
                let ready = self.kubectl(&["get", "node", node.name(), "-o", ready], "")?;
                ensure!(ready == "True", "{} is not ready", node.name());
            }
            if self.tier >= Tier::Kcm {
                self.kubectl(&["get", "serviceaccount", "default", "-n", "default"], "")?;
            }
            if self.tier >= Tier::Node {
                self.dns_ready()?;
            }
            Ok(())
        })
    }

    /// The components that do not run.
    pub fn ended(&self) -> impl Iterator<Item = Component> {
        Component::of(self.tier).into_iter().filter(|component| {
            let recorded = Process::recorded(&self.place.pid(&component.name()));
            !recorded.is_some_and(Process::runs)
        })
    }

    pub fn api_ready(&self) -> anyhow::Result<()> {
        self.kubectl(&["get", "--raw=/readyz", "--request-timeout=5s"], "").map(drop)
    }

    pub fn dns_ready(&self) -> anyhow::Result<()> {
        self.answers(DNS_READY.to_owned(), "/ready")
    }

    fn answers(&self, address: String, path: &'static str) -> anyhow::Result<()> {
        let sandbox = self.sandbox;
        let look = move || -> anyhow::Result<()> {
            sandbox.enter()?;
            let (code, _) = http::get(&address, path).map_err(anyhow::Error::msg)?;
            ensure!(code == 200, "{address}{path} answers {code}");
            Ok(())
        };
        // On a thread of its own: this one stays in the network where it is.
        std::thread::spawn(look).join().expect("looking does not panic")
    }

    pub fn start(&self, component: Component) -> anyhow::Result<()> {
        let name = component.name();
        let process = self.sandbox.start(&component.words(self.tier), &self.place.log(&name))?;
        cgroup::adopt(&self.place.cgroup(), process.id)?;
        process.record(&self.place.pid(&name))?;
        Ok(())
    }

    /// Starts it again where it has ended, as what supervises it on other machines does: it gives
    /// up where its containerd does not answer or still recovers what it ran before.
    pub fn kubelet_ready(&self, node: Node) -> anyhow::Result<()> {
        let kubelet = Component::Kubelet(node);
        within(READY, || {
            if self.ended().any(|ended| ended == kubelet) {
                self.start(kubelet)?;
            }
            self.answers(format!("127.0.0.1:{}", node.health_port()), "/healthz")
        })
    }

    /// Returns when it has ended.
    pub fn end(&self, component: Component, signal: Signal) -> anyhow::Result<()> {
        let recorded = Process::recorded(&self.place.pid(&component.name()));
        recorded.map_or(Ok(()), |process| process.end(signal, ENDED))
    }

    /// Gives an image to every node.
    pub fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let name = image::read(archive)?.name;
        for &node in self.tier.nodes() {
            let import = || {
                let file = fs::File::open(archive)?;
                run(self.containers(node).args(["images", "import", "-"]).stdin(file))
            };
            let imported = within(READY, import);
            imported.with_context(|| format!("{} cannot be loaded", archive.display()))?;
            // kubelet's side of containerd learns of an image by an event.
            within(READY, || {
                let known = format!("name=={name}");
                let listed = run(self.containers(node).args(["images", "ls", &known]))?;
                let known = listed.contains("io.cri-containerd.image=managed");
                ensure!(known, "{} does not know {name}", node.name());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// `ctr` in the namespace of the pods of a node.
    pub fn containers(&self, node: Node) -> Command {
        let mut command = self.sandbox.command("ctr");
        let socket = format!("--address=/run/containerd-{}.sock", node.number());
        command.args([&socket, "--namespace=k8s.io"]);
        command
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = self.sandbox.command("kubectl");
        command.arg("--kubeconfig=/run/shoal/pki/admin.kubeconfig").args(arguments);
        run_with(&mut command, input)
    }
}

/// What it prints; an error with what it says where it fails.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", shown(command), told.trim());
    Ok(String::from_utf8(output.stdout)?)
}

/// With this at its standard input.
pub(crate) fn run_with(command: &mut Command, input: &str) -> anyhow::Result<String> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends before it has read all says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", shown(command), told.trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn shown(command: &Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    // What comes before is how it gets into the namespaces.
    let own = words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    words[own..].join(" ")
}

fn pause_image(place: &Place) -> anyhow::Result<PathBuf> {
    let archive = place.directory().join("pause.tar");
    let mut image = Image::new("pause", &["/pause"]).tagged("1");
    image.program(&place::tools().join("pause"), "/pause")?;
    image.write(&archive)?;
    Ok(archive)
}

/// Programs that are missing or older than their sources, once for this process.
pub(crate) fn build() -> anyhow::Result<()> {
    static BUILT: Mutex<bool> = Mutex::new(false);
    let mut built = BUILT.lock();
    if !*built {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kube/build.sh");
        // What it says is for whoever waits for it.
        let status = Command::new(script).arg(place::tools()).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "the programs of a cluster cannot be built");
        *built = true;
    }
    Ok(())
}

/// Programs and settings of a cluster of this tier.
fn stamp(place: &Place, tier: Tier) -> anyhow::Result<String> {
    let mut made_from = component::TEMPLATES.concat() + &place.cgroup();
    for program in ["hyperkube", "coredns", "pause"] {
        made_from += &fs::read_to_string(place::tools().join(format!("{program}.key")))?;
    }
    for component in Component::of(tier) {
        made_from += &component.words(tier).join(" ");
    }
    Ok(image::hash(made_from.as_bytes()))
}
