//! What happens to the ShardCluster, step by step, and to the calls meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use k8s_openapi::{api::core::v1::Pod, api::events::v1::Event};
use serde_json::json;
use shoal_tests::{
    deploy::{Images, Outage, Site, digest_of, is_ready, name, restarts, uid},
    image::Built,
    kube::{Cluster, Namespace, Victim, within},
    stock::Stock,
};

use crate::{Teller, Verdict};

const MANIFEST: &str = include_str!("../../deploy/examples/demo.yaml");
/// The image that the manifest names, and the cluster.
const EXAMPLE_IMAGE: &str = "shoal:0.1.0";
const NAME: &str = "demo";

/// Connections, counters and calls a second of each client; there are two.
const CONNECTIONS: usize = 32;
const KEYS: usize = 600;
const RATE: f64 = 300.0;
/// Load before the first change and after the last.
const STEADY: Duration = Duration::from_secs(3);
/// A step takes a few seconds on an idle machine, several times that on a busy one.
const PATIENCE: Duration = Duration::from_secs(180);
/// Asked of the killed node: every shard of the example has some.
const OUTAGE_KEYS: usize = 2_000;

pub struct Story<'a> {
    site: Site<'a>,
    images: &'a Images,
    teller: &'a Teller,
    broken: Vec<String>,
}

impl<'a> Story<'a> {
    pub fn new(
        cluster: &'a Cluster,
        namespace: &'a Namespace<'a>,
        images: &'a Images,
        teller: &'a Teller,
    ) -> anyhow::Result<Self> {
        let site = Site::new(cluster, namespace, NAME)?;
        Ok(Self { site, images, teller, broken: Vec::new() })
    }

    /// Changes the size `rounds` times to and fro, everything else once.
    pub fn tell(mut self, rounds: u32) -> anyhow::Result<Verdict> {
        self.create()?;
        let mut clients = self.clients()?;
        thread::sleep(STEADY);
        for replicas in (0..rounds).flat_map(|_| [5, 2, 3]) {
            self.scale(replicas)?;
        }
        self.roll()?;
        self.delete_pod()?;
        thread::sleep(STEADY);
        self.promise("a client ended early", clients.iter_mut().all(Stock::runs));
        self.teller.say("the load ends, every counter is read");
        let told = clients.into_iter().map(Stock::end).collect::<anyhow::Result<_>>()?;
        let outage = self.kill()?;
        println!("\n{}", events(&self.site.events()?));
        println!("{}", self.members()?);
        let verdict = Verdict { told, outage, broken: self.broken };
        println!("{verdict}");
        Ok(verdict)
    }

    fn promise(&mut self, broken: &str, kept: bool) {
        if !kept {
            self.broken.push(broken.to_owned());
        }
    }

    fn create(&mut self) -> anyhow::Result<()> {
        ensure!(MANIFEST.contains(EXAMPLE_IMAGE), "the example names another image");
        let began = Instant::now();
        let manifest = MANIFEST.replace(EXAMPLE_IMAGE, &self.images.worker.name);
        self.site.namespace.apply(&manifest)?;
        self.teller.say("kubectl apply -f deploy/examples/demo.yaml");
        self.site.ready(PATIENCE)?;
        self.site.reachable(PATIENCE)?;
        let image = self.images.worker.clone();
        self.runs(&image)?;
        self.teller.say(format!("formed, every shard has an owner after {:.1?}", began.elapsed()));
        Ok(())
    }

    fn clients(&self) -> anyhow::Result<Vec<Stock>> {
        let clients = self.site.clients(CONNECTIONS, KEYS, RATE)?;
        self.teller.say(format!(
            "load: grpcio and grpc-go, {CONNECTIONS} connections each to {}, \
             {:.0} increments per second",
            self.site.address()?,
            RATE * clients.len() as f64
        ));
        Ok(clients)
    }

    fn scale(&self, replicas: u32) -> anyhow::Result<()> {
        let began = Instant::now();
        self.teller.say(format!("kubectl scale shardcluster/{NAME} --replicas={replicas}"));
        self.site.scale(replicas)?;
        self.site.ready(PATIENCE)?;
        let pods = self.site.pods()?;
        ensure!(pods.len() == replicas as usize, "{} pods after scaling", pods.len());
        self.teller.say(format!("{replicas} nodes, ready after {:.1?}", began.elapsed()));
        Ok(())
    }

    /// To the other version and its binary.
    fn roll(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        let (before, version) = (self.site.pods()?, self.site.status()?.version);
        self.teller.say(format!("kubectl patch shardcluster/{NAME}: {}", self.images.next.name));
        self.site.patch(&json!({"spec": {"image": self.images.next.name}}))?;
        self.site.ready(PATIENCE)?;
        let (after, newer) = (self.site.pods()?, self.site.status()?.version);
        for (old, new) in before.iter().zip(&after) {
            self.teller.say(format!("{}: {} is now {}", name(new), uid(old), uid(new)));
        }
        let replaced = before.iter().zip(&after).all(|(old, new)| uid(old) != uid(new));
        self.promise("a pod was not replaced by the roll", replaced);
        let (version, newer) = (version.unwrap_or_default(), newer.unwrap_or_default());
        self.promise("the workers report the same version after the roll", version != newer);
        let image = self.images.next.clone();
        self.runs(&image)?;
        self.teller.say(format!("rolled {version} to {newer} after {:.1?}", began.elapsed()));
        Ok(())
    }

    /// Every pod runs exactly what was built.
    fn runs(&mut self, image: &Built) -> anyhow::Result<()> {
        for pod in self.site.pods()? {
            let digest = digest_of(&pod);
            let same = [&image.id, &image.digest].iter().any(|built| digest.ends_with(*built));
            self.promise(&format!("{} runs {digest}, not {}", name(&pod), image.id), same);
        }
        self.teller.say(format!("every pod runs {}", image.id));
        Ok(())
    }

    fn delete_pod(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let pod = self.some_pod()?;
        self.teller.say(format!("kubectl delete pod {}", name(&pod)));
        self.site.namespace.kubectl(&["delete", "pod", name(&pod)])?;
        self.back(&pod, |new| uid(new) != uid(&pod))?;
        self.teller.say(format!("{} is back after {:.1?}", name(&pod), began.elapsed()));
        Ok(())
    }

    /// None on a cluster of the user: no process of its machines is ours to kill.
    fn kill(&mut self) -> anyhow::Result<Option<Outage>> {
        if self.site.cluster.is_users() {
            self.teller.say("left out on your cluster: a process killed with SIGKILL");
            return Ok(None);
        }
        let pod = self.some_pod()?;
        let began = Instant::now();
        let outage = Outage::of(&self.site, name(&pod), Victim::Child, OUTAGE_KEYS)?;
        self.teller.say(format!("the process of {} is killed with SIGKILL", name(&pod)));
        self.teller.say(format!("all its keys are answered again after {:.1?}", outage.last));
        self.back(&pod, |new| restarts(new) == restarts(&pod))?;
        self.teller.say(format!(
            "{} is back in its container after {:.1?}",
            name(&pod),
            began.elapsed()
        ));
        Ok(Some(outage))
    }

    /// Not the first, not the last.
    fn some_pod(&self) -> anyhow::Result<Pod> {
        self.site.pods()?.into_iter().nth(1).context("fewer than two pods")
    }

    /// Waits for a pod of this name that is another in the way asked for, and ready.
    fn back(&self, pod: &Pod, another: impl Fn(&Pod) -> bool) -> anyhow::Result<()> {
        within(PATIENCE, || {
            let pods = self.site.pods()?;
            let new = pods.iter().find(|new| name(new) == name(pod)).context("no pod")?;
            ensure!(another(new) && is_ready(new), "{} is not back", name(pod));
            Ok(())
        })?;
        self.site.ready(PATIENCE).map(drop)
    }

    fn members(&self) -> anyhow::Result<String> {
        let mut table =
            format!("{:<8} {:<5} {:<8} {:<8} SHARDS\n", "MEMBER", "ID", "ROLE", "STATE");
        for member in self.site.status()?.members {
            let id = member.node_id.unwrap_or_default();
            let (role, state) = (format!("{:?}", member.role), format!("{:?}", member.state));
            let shards = member.shards;
            table += &format!("{:<8} {id:<5} {role:<8} {state:<8} {shards}\n", member.name);
        }
        Ok(table)
    }
}

/// Events as a table, each with the seconds since the first.
fn events(events: &[Event]) -> String {
    let first = events.first().and_then(|event| event.event_time.clone());
    let mut table = format!("{:>7}  {:<8} {:<16} WHAT\n", "TIME", "TYPE", "REASON");
    for event in events {
        let at = event.event_time.as_ref().zip(first.as_ref());
        let at = at.map_or(0.0, |(at, first)| at.0.duration_since(first.0).as_secs_f64());
        let count = event.series.as_ref().map_or(1, |series| series.count);
        let again = if count > 1 { format!(" ({count} times)") } else { String::new() };
        table += &format!(
            "{at:>5.1} s  {:<8} {:<16} {}{again}\n",
            event.type_.as_deref().unwrap_or_default(),
            event.reason.as_deref().unwrap_or_default(),
            event.note.as_deref().unwrap_or_default(),
        );
    }
    table
}
