//! Sources and watchers over loopback, on tables that one log feeds.

mod world;

use futures::StreamExt as _;
use shoal_core::{
    id::{ClusterId, LogIndex, NodeId},
    registry::{Command, Configure, Life},
};
use shoal_proto::shoal::peer::v1::{self as pb, map_server::Map as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use self::world::{
    CLUSTER, FIRST, Follower, LEASE, Proxy, SECOND, Script, Source, THIRD, WATCHER, World, until,
};
use super::{
    News, Why,
    server::{MAX_SNAPSHOTS, MAX_WATCHERS},
};
use crate::{
    peer::MAX_MESSAGE,
    tls::Caller,
    wire::{map as wire, registry as rows},
};

type Events = ReceiverStream<Result<pb::WatchMapEvent, Status>>;

/// As over a connection without TLS.
fn asked(request: pb::WatchMapRequest) -> Request<pb::WatchMapRequest> {
    let mut request = Request::new(request);
    request.extensions_mut().insert(Caller::Trusted);
    request
}

/// A watch without a connection: events are made only as they are taken here.
async fn watch(source: &Source, applied: u64) -> Events {
    let request = wire::request(CLUSTER, (WATCHER, None), LogIndex(applied), false);
    source.server.watch_map(asked(request)).await.unwrap().into_inner()
}

async fn next(events: &mut Events) -> super::Event {
    let event = tokio::time::timeout(2 * LEASE, events.next()).await;
    let event = event.expect("silence").expect("the stream ended").unwrap();
    wire::read_event(event).unwrap()
}

async fn refusal(source: &Source, applied: u64) -> Option<Why> {
    let event = next(&mut watch(source, applied).await).await;
    match event.news {
        News::Elsewhere(why) => Some(why),
        News::Snapshot(_) | News::Delta(_) | News::Nothing => None,
    }
}

fn lower_lease() -> Command {
    Command::Configure(Configure { lease_ms: Some(2_000), ..Configure::default() })
}

fn mark(node: NodeId) -> Command {
    Command::Mark { node }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_gets_the_table_then_what_changed_then_word_that_nothing_did() {
    let world = World::new();
    let source = world.source(SECOND);
    let mut events = watch(&source, 0).await;
    let first = next(&mut events).await;
    assert_eq!((first.cluster, first.from), (CLUSTER, SECOND));
    assert_eq!(first.members, Some(source.heard.lock().clone()));
    let News::Snapshot(bytes) = first.news else { panic!("{first:?}") };
    let table = crate::table::Table::default();
    table.install_snapshot(rows::decode_delta(&bytes).unwrap()).unwrap();
    assert_eq!(table.applied(), first.index);

    let quiet = next(&mut events).await;
    assert_eq!((quiet.news, quiet.members), (News::Nothing, None));
    assert!(quiet.index > first.index, "the log went on");
    table.progress(first.index, quiet.index).unwrap();

    world.apply(mark(THIRD));
    let changed = next(&mut events).await;
    let News::Delta(bytes) = changed.news else { panic!("{changed:?}") };
    table.apply_delta(rows::decode_delta(&bytes).unwrap()).unwrap();
    assert!(table.registry().node(THIRD).unwrap().marked);
    assert_eq!((source.metrics.snapshots.get(), source.metrics.deltas.get()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_renewals_tell_a_watcher_of_no_row() {
    let world = World::new();
    let source = world.source(SECOND);
    let watcher = Follower::start(&[&source]);
    watcher.follows(&source).await;
    let begin = watcher.table.applied();
    for _ in 0..20 {
        world.renew_all();
    }
    until("it hears that the log goes on", || watcher.table.applied().0 > begin.0 + 40).await;
    assert_eq!((source.metrics.snapshots.get(), source.metrics.deltas.get()), (1, 0));
    assert_eq!(watcher.table.registry().map_version(), source.table.registry().map_version());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watcher_is_told_all_at_once() {
    let world = World::new();
    let source = world.source(SECOND);
    let mut events = watch(&source, world.applied()).await;
    for _ in 0..50 {
        world.apply(Command::DrainRemoval { node: THIRD });
        world.apply(Command::CancelDrain { node: THIRD });
    }
    let last = world.applied();
    let mut told = 0;
    loop {
        told += 1;
        if next(&mut events).await.index >= LogIndex(last) {
            break;
        }
    }
    assert!(told <= 3, "{told} events for what two can tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn s9_a_lowered_lease_is_told_although_the_map_stands_still() {
    let world = World::new();
    let source = world.source(SECOND);
    let watcher = Follower::start(&[&source]);
    watcher.follows(&source).await;
    let map = watcher.table.registry().map_version();
    world.apply(Command::Configure(Configure { lease_ms: Some(4_000), ..Configure::default() }));
    until("the lease", || watcher.table.registry().settings().lease_ms == 4_000).await;
    world.apply(lower_lease());
    until("the lease", || watcher.table.registry().settings().lease_ms == 2_000).await;
    assert_eq!(watcher.table.registry().map_version(), map);
}

#[tokio::test(flavor = "multi_thread")]
async fn s19_a_mark_that_is_told_late_changes_no_shard_before_it_is_told() {
    let world = World::new();
    let source = world.source(SECOND);
    let proxy = Proxy::before(&source).await;
    let watcher = Follower::at(&[(SECOND, &proxy.address)]);
    watcher.follows(&source).await;
    let shards = |table: &crate::table::Table| -> Vec<_> {
        table.registry().shards().map(|(_, row)| *row).collect()
    };
    world.assign_all(WATCHER);
    until("its shards", || watcher.table.registry().held(WATCHER).owned == 16).await;
    proxy.freeze();
    world.apply(mark(WATCHER));
    assert_eq!(shards(&source.table), shards(&watcher.table), "the mark takes no shard");
    assert!(!watcher.table.registry().node(WATCHER).unwrap().marked);
    proxy.thaw();
    until("the mark", || watcher.table.registry().node(WATCHER).unwrap().marked).await;
    assert_eq!(watcher.table.registry().held(WATCHER).owned, 16, "until it has closed them");
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_of_a_half_open_connection_both_ends_let_go() {
    let world = World::new();
    let (source, other) = (world.source(SECOND), world.source(THIRD));
    let proxy = Proxy::before(&source).await;
    let watcher = Follower::at(&[(SECOND, &proxy.address)]);
    watcher.follows(&source).await;
    assert_eq!(source.metrics.watchers.get(), 1);
    watcher.knows(&[(SECOND, &proxy.address), (THIRD, &other.address)]);
    proxy.freeze();
    until("the other source", || other.metrics.watchers.get() == 1).await;
    until("the first source lets go", || source.metrics.watchers.get() == 0).await;
    watcher.follows(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_a_watcher_that_takes_nothing_is_given_up() {
    let world = World::new();
    let source = world.source(SECOND);
    let idle = watch(&source, 0).await;
    until("it is a watcher", || source.metrics.watchers.get() == 1).await;
    until("it is given up", || source.metrics.watchers.get() == 0).await;
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_silent_or_stands_still_is_left_before_the_session_ends() {
    for script in [Script::Silent, Script::StandsStill] {
        let world = World::new();
        let good = world.source(THIRD);
        let (bad, _stop) = script.serve(&world.snapshot());
        let watcher = Follower::at(&[(SECOND, &bad)]);
        until("it has the table", || watcher.table.registry().formed()).await;
        watcher.knows(&[(SECOND, &bad), (THIRD, &good.address)]);
        let began = tokio::time::Instant::now();
        until("the good source", || good.metrics.watchers.get() == 1).await;
        assert!(began.elapsed() < 2 * LEASE, "{script:?}");
        watcher.follows(&good).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_complains_of_the_table_gets_another_source() {
    let world = World::new();
    let (one, other) = (world.source(SECOND), world.source(THIRD));
    let watcher = Follower::start(&[&one]);
    watcher.follows(&one).await;
    watcher.knows(&[(SECOND, &one.address), (THIRD, &other.address)]);
    watcher.session.send_modify(|state| state.change_source += 1);
    until("the other source", || other.metrics.watchers.get() == 1).await;
    assert_eq!(watcher.metrics.source_changes.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_cluster_are_never_taken() {
    let world = World::new();
    let elsewhere = World::of(ClusterId(99));
    let foreign = elsewhere.source(SECOND);
    let good = world.source(THIRD);
    let mut request = wire::request(CLUSTER, (WATCHER, None), LogIndex(0), false);
    let status = foreign.server.watch_map(asked(request.clone())).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    request.to = THIRD.0;
    request.cluster_id = ClusterId(99).to_string();
    let status = foreign.server.watch_map(asked(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "it means another node");
    let itself = wire::request(CLUSTER, (THIRD, None), LogIndex(0), false);
    let status = good.server.watch_map(asked(itself)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "it is the watcher");

    // One that does not check and sends its rows all the same.
    let (rude, _stop) = Script::StandsStill.serve(&foreign.event());
    let watcher = Follower::at(&[(SECOND, &rude)]);
    until("it has left that source", || watcher.metrics.source_changes.get() > 2).await;
    assert!(!watcher.table.registry().founded());
    watcher.knows(&[(SECOND, &rude), (THIRD, &good.address)]);
    watcher.follows(&good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_be_watched_says_why_and_names_the_others() {
    let world = World::new();
    let source = world.source(SECOND);
    assert_eq!(refusal(&source, world.applied() + 1_000).await, Some(Why::Behind));
    source.leads();
    assert_eq!(refusal(&source, 0).await, Some(Why::Leads));
    let mut request = wire::request(CLUSTER, (WATCHER, None), LogIndex(0), true);
    request.to = SECOND.0;
    let mut last = source.server.watch_map(asked(request)).await.unwrap().into_inner();
    assert!(matches!(next(&mut last).await.news, News::Snapshot(_)), "the last resort");
    source.heard.lock().voters.retain(|id, _| *id == SECOND);
    assert_eq!(refusal(&source, 0).await, None, "nobody else can be watched");

    let young = World::unformed();
    let unformed = young.source(SECOND);
    assert_eq!(refusal(&unformed, 0).await, Some(Why::NotFormed));
    let other = world.source(THIRD);
    let watching = Follower::start(&[&other]);
    watching.follows(&other).await;
    let relay = Source::start(FIRST, watching.table.clone());
    let told = next(&mut watch(&relay, 0).await).await;
    assert_eq!(told.news, News::Elsewhere(Why::NoLog));
    assert!(told.members.is_some_and(|members| members.voters.contains_key(&THIRD)));
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_and_tables_under_way_are_limited() {
    let world = World::new();
    // Nobody takes an event here, and that many watches are not opened in two short leases
    // everywhere.
    world.apply(Command::Configure(Configure { lease_ms: Some(60_000), ..Configure::default() }));
    let source = world.source(SECOND);
    let mut large = Vec::new();
    for _ in 0..MAX_SNAPSHOTS {
        large.push(watch(&source, 0).await);
    }
    let under_way = || source.metrics.snapshots.get() == MAX_SNAPSHOTS as u64;
    until("all tables are under way", under_way).await;
    assert_eq!(refusal(&source, 0).await, Some(Why::Busy));
    assert_eq!(refusal(&source, world.applied()).await, None, "it needs no table");
    let taken = |places: usize| source.metrics.watchers.get() == places as i64;
    until("those two have left their places", || taken(MAX_SNAPSHOTS)).await;
    let mut all = Vec::new();
    for _ in MAX_SNAPSHOTS..MAX_WATCHERS {
        all.push(watch(&source, world.applied()).await);
    }
    until("the places are taken", || taken(MAX_WATCHERS)).await;
    assert_eq!(refusal(&source, world.applied()).await, Some(Why::Busy));
}

/// A thousand nodes under long names and 65,536 shards, all of them in a move.
#[test]
fn the_largest_table_fits_into_one_message() {
    let registry = world::largest();
    assert_eq!((registry.nodes().count(), registry.shards().count()), (1_000, 65_536));
    let whole = rows::encode_snapshot(&registry);
    assert!(2 * whole.len() < MAX_MESSAGE, "{} bytes", whole.len());
    assert_eq!(rows::decode_snapshot(&whole).unwrap(), registry);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_changes_between_watch_and_log_without_a_gap() {
    let world = World::new();
    let source = world.source(SECOND);
    let watcher = Follower::start(&[&source]);
    watcher.follows(&source).await;
    assert!(watcher.heard.borrow().is_some());

    world.feed(&watcher.table);
    until("it leaves its source", || source.metrics.watchers.get() == 0).await;
    until("it knows better", || watcher.heard.borrow().is_none()).await;
    world.agree(&watcher.table, &source.table);

    watcher.knows(&[(SECOND, &source.address)]);
    world.starve();
    until("it watches again", || source.metrics.watchers.get() == 1).await;
    world.apply(mark(THIRD));
    until("the mark", || watcher.table.registry().node(THIRD).unwrap().marked).await;
    assert_eq!(source.metrics.snapshots.get(), 1, "it went on from what the log had brought");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_for_good_watches_before_the_log_drops_it() {
    let world = World::new();
    let source = world.source(SECOND);
    let watcher = Follower::start(&[&source]);
    watcher.follows(&source).await;
    world.feed(&watcher.table);
    until("it follows the log", || source.metrics.watchers.get() == 0).await;
    watcher.knows(&[(SECOND, &source.address)]);
    world.apply(Command::DrainRemoval { node: WATCHER });
    world.close(WATCHER);
    until("it watches beside the log", || source.metrics.watchers.get() == 1).await;
    world.remove(WATCHER);
    world.starve();
    until("it hears that it has left", || {
        watcher.table.registry().node(WATCHER).unwrap().life == Life::Left
    })
    .await;
    world.apply(mark(THIRD));
    until("a parked node follows", || watcher.table.registry().node(THIRD).unwrap().marked).await;
}
