//! What is as specified is left alone, whatever the watches say; and what an operator costs.

use std::{fs, time::Duration};

use serde_json::json;
use shoal_core::registry::{Command, Configure};
use shoal_tests::standin::Knobs;
use tokio::time::{Instant, sleep};

use super::{
    PATIENCE, is_sweep,
    scene::{Scene, is_lease, run, spec, until_within},
};

/// User and system time of a process are counted in hundredths.
const TICKS_A_SECOND: f64 = 100.0;

#[test]
fn an_idle_cluster_is_not_written_to() {
    run("idle", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(5)).await;
        scene.ready().await;
        // What can wait is shown within ten seconds.
        scene.rests(Duration::from_secs(3)).await;
        let span = Duration::from_secs(if is_sweep() { 60 } else { 10 });
        let (begin, cpu) = (Instant::now(), cpu_seconds(&scene));
        sleep(span).await;
        let written = scene.proxy.writes().since(begin);
        let writes: Vec<_> = written.iter().filter(|write| !is_lease(write)).collect();
        assert!(writes.is_empty(), "{writes:?}");
        let used = (cpu_seconds(&scene) - cpu) / span.as_secs_f64() * 100.0;
        println!(
            "idle for {span:?}: 0 writes, {} renewals of the Lease, {used:.1} % of a processor, {} resident",
            written.len(),
            resident(&scene)
        );
        println!("passes: p99 at most {} s", p99(&scene));
    });
}

/// No object of Kubernetes tells of it, and the next pass would be minutes away.
#[test]
fn what_changes_in_the_registry_alone_is_pushed() {
    run("pushed", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        scene.create(spec(3)).await;
        scene.ready().await;
        until_within("a worker pushes", PATIENCE, async || {
            let page = scene.operator.as_ref().expect("it runs").page("/metrics")?;
            let followed = page.lines().any(|line| line == "shoal_operator_followed_clusters 1");
            if followed { Ok(()) } else { Err(page) }
        })
        .await;
        scene.rests(Duration::from_secs(15)).await;
        let specified = scene.standin.seen().max_moves;
        for max_moves in [Some(specified + 1), Some(specified + 2)] {
            let by_hand = Configure { max_moves, ..Configure::default() };
            scene.standin.order(&Command::Configure(by_hand)).expect("it is applied");
            until_within("it is as specified again", PATIENCE, async || {
                let now = scene.standin.seen().max_moves;
                if now == specified { Ok(()) } else { Err(now.to_string()) }
            })
            .await;
        }
    });
}

#[test]
fn watches_that_lie_only_cost_time() {
    run("watches", async |cluster, namespace| {
        let mut scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let watches = scene.proxy.watches();
        watches.drop_events(3);
        scene.create(spec(3)).await;
        scene.ready().await;
        scene.change(json!({ "replicas": 5 })).await;
        scene.ready_within(PATIENCE * 2).await;
        assert!(scene.proxy.watches().dropped() > 0, "no event was dropped");
        scene.proxy.watches().drop_events(0);
        scene.proxy.watches().expire(3);
        // The watches of a new process are too old at first, and its lists are those of long ago:
        // of three pods that are to be five.
        scene.proxy.watches().stale_lists(true);
        let (pods, claims) = (scene.pods().await, scene.claims().await);
        scene.start_operator();
        until_within("the watches were too old", PATIENCE, async || {
            match scene.proxy.watches().still_to_expire() {
                0 => Ok(()),
                left => Err(format!("{left} are to be refused")),
            }
        })
        .await;
        scene.rests(Duration::from_secs(3)).await;
        assert_eq!((scene.pods().await, scene.claims().await), (pods, claims));
        scene.proxy.watches().stale_lists(false);
        scene.change(json!({ "replicas": 2 })).await;
        scene.ready_within(PATIENCE * 2).await;
    });
}

fn process_file(scene: &Scene<'_>, file: &str) -> String {
    let id = scene.operator.as_ref().expect("it runs").id();
    fs::read_to_string(format!("/proc/{id}/{file}")).expect("it runs")
}

fn cpu_seconds(scene: &Scene<'_>) -> f64 {
    let stat = process_file(scene, "stat");
    let fields = stat.rsplit(')').next().expect("fields").split_whitespace();
    // User and system time are the 14th and 15th field, of which two come before.
    let ticks: f64 = fields.skip(11).take(2).map(|n| n.parse::<f64>().expect("a number")).sum();
    ticks / TICKS_A_SECOND
}

fn resident(scene: &Scene<'_>) -> String {
    let status = process_file(scene, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.expect("resident memory").trim().to_owned()
}

/// The bound of the histogram below which 99 of 100 passes lie.
fn p99(scene: &Scene<'_>) -> String {
    let page = scene.operator.as_ref().expect("it runs").page("/metrics").expect("a page");
    let name = "shoal_operator_reconcile_duration_seconds_bucket{le=\"";
    let buckets: Vec<(String, f64)> = page
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.split_once("\"} "))
        .map(|(bound, count)| (bound.to_owned(), count.parse().expect("a count")))
        .collect();
    let all = buckets.last().expect("buckets").1;
    let bound = buckets.iter().find(|(_, count)| *count >= all * 0.99);
    bound.expect("a bound").0.clone()
}
