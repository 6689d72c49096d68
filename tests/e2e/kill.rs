//! A worker's process that is killed: its keys are served by others, or by the next process.

use std::time::Duration;

use shoal_tests::{
    deploy::{Outage, Site, name, restarts},
    kube::{Backoff, Node, Tier, Victim, within},
};

use crate::stage::{PATIENCE, Stage, setting};

const KILLS: usize = 3;
const NODES: usize = 3;
/// Asked of each killed node: nearly all of its shards have some.
const KEYS: usize = 600;
/// More than the lease of a node whose death nobody proves; the figures of a release build are
/// far below.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn the_keys_of_a_killed_process_are_served_again_soon() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let kills = setting("E2E_KILLS", KILLS);
    let mut worst = Duration::ZERO;
    // A node that is killed again and again loses its shards: each is killed once.
    for begun in (0..kills).step_by(NODES) {
        let namespace = stage.namespace("killed");
        let site = stage.founded(&namespace);
        for at in 0..NODES.min(kills - begun) {
            worst = worst.max(outage(&site, at, Victim::Child));
            site.ready(PATIENCE).unwrap();
        }
        let times: Vec<_> = site.pods().unwrap().iter().map(restarts).collect();
        assert_eq!(times, [0; NODES], "the containers did not go on");
    }
    println!("the process, worst of {kills}: {worst:.2?}");
    assert!(worst <= LONGEST, "{worst:?}");

    let namespace = stage.namespace("restarted");
    let site = stage.founded(&namespace);
    let mut worst = Duration::ZERO;
    for at in 0..NODES.min(kills) {
        worst = worst.max(outage(&site, at, Victim::Container));
        site.ready(PATIENCE).unwrap();
    }
    println!("the container, worst of {}: {worst:.2?}", NODES.min(kills));
    assert!(worst <= LONGEST, "{worst:?}");

    // Now the second time in a row nothing restarts it soon.
    let namespace = stage.namespace("loop");
    let site = stage.founded(&namespace);
    stage.cluster.set_backoff(Node::One, Backoff::Default).unwrap();
    let lasted = in_crash_loop(&site);
    stage.cluster.set_backoff(Node::One, Backoff::Short).unwrap();
    println!("in a crash loop: {lasted:.2?}");
    assert!(lasted <= LONGEST, "{lasted:?}");
    site.ready(PATIENCE).unwrap();
}

fn outage(site: &Site<'_>, at: usize, victim: Victim) -> Duration {
    let pods = site.pods().unwrap();
    // One that was fenced often is given shards again only after a while.
    within(PATIENCE, || {
        let members = site.status()?.members;
        let owner = members.iter().find(|member| member.name == name(&pods[at]));
        anyhow::ensure!(owner.is_some_and(|owner| owner.shards > 0), "it owns nothing: {owner:?}");
        Ok(())
    })
    .unwrap();
    let outage = Outage::of(site, name(&pods[at]), victim, KEYS).unwrap();
    println!("{} {victim:?}: {outage:?}", name(&pods[at]));
    outage.last
}

/// Kills the last node until its container waits for its next start; the outage that the last
/// kill has made.
fn in_crash_loop(site: &Site<'_>) -> Duration {
    loop {
        let lasted = outage(site, 2, Victim::Container);
        if is_waiting(site) {
            return lasted;
        }
        site.ready(PATIENCE).unwrap();
    }
}

fn is_waiting(site: &Site<'_>) -> bool {
    let looked = within(Duration::from_secs(3), || {
        let pods = site.pods()?;
        let status = pods[2].status.as_ref().and_then(|s| s.container_statuses.as_ref());
        let state = status.and_then(|all| all.first()).and_then(|one| one.state.as_ref());
        let waits = state.is_some_and(|state| state.waiting.is_some());
        anyhow::ensure!(waits, "it runs");
        Ok(())
    });
    looked.is_ok()
}
