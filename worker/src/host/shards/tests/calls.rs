//! Calls at the edge of what may be served.

use shoal_core::admit::Nack;

use super::*;

async fn serving(host: Arc<dyn ShardHost>) -> (Arc<World>, [Node; 2]) {
    let (world, nodes) = World::new([host, kv()]).await;
    world.assign(S0, &nodes[0]);
    nodes[0].serves(S0).await;
    (world, nodes)
}

fn start(node: &Node, method: &str) -> tokio::task::JoinHandle<Outcome> {
    let (shards, call) = (node.shards.clone(), node.ask(method, "k", b""));
    tokio::spawn(async move { shards.call(call).await })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_revoked_during_a_call_withholds_its_answer() {
    let host = Arc::new(Gated::default());
    let (_world, [node, _other]) = serving(Arc::clone(&host) as _).await;
    let waiting = start(&node, "wait");
    let blocking = start(&node, "block");
    host.entered(2).await;
    node.right.revoke();
    assert!(matches!(waiting.await.unwrap(), Outcome::Unknown(_)), "cancelled");
    host.gate.add_permits(1);
    assert!(matches!(blocking.await.unwrap(), Outcome::Unknown(_)), "withheld or cancelled");
    let metrics = node.shards.metrics();
    assert_eq!(metrics.cancelled.get() + metrics.withheld.get(), 2);
    let refused = node.outcome("get", "k", b"").await;
    assert!(matches!(refused, Outcome::Nack(Nack::StaleReceiver)), "{refused:?}");
    node.right.extend(clock::now().plus(HOUR));
    assert_eq!(node.answer("incr", "k").await, "1", "the same incarnation may go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_is_fenced_meanwhile_is_not_acknowledged() {
    let host = Arc::new(Gated::default());
    let (_world, [node, _other]) = serving(Arc::clone(&host) as _).await;
    let blocking = start(&node, "block");
    host.entered(1).await;
    node.fence();
    host.gate.add_permits(1);
    assert!(matches!(blocking.await.unwrap(), Outcome::Unknown(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_at_its_deadline() {
    let host = Arc::new(Gated::default());
    let (_world, [node, _other]) = serving(Arc::clone(&host) as _).await;
    let call = Call { budget: Duration::from_millis(50), ..node.ask("wait", "k", b"") };
    let outcome = node.shards.call(call).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "{outcome:?}");
    assert_eq!(node.shards.metrics().cancelled.get(), 1);
    let expired = Call { budget: Duration::ZERO, ..node.ask("incr", "k", b"") };
    let outcome = node.shards.call(expired).await;
    assert!(matches!(outcome, Outcome::Nack(Nack::Expired)), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_cancels_its_handler() {
    let host = Arc::new(Gated::default());
    let (_world, [node, _other]) = serving(Arc::clone(&host) as _).await;
    let waiting = start(&node, "wait");
    host.entered(1).await;
    assert_eq!(node.shards.owned().calls, 1);
    waiting.abort();
    eventually("the handler ends", || (node.shards.owned().calls == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_shard_refuses_and_says_when_to_come_back() {
    let host = Arc::new(Gated::default());
    let (_world, [node, _other]) = serving(Arc::clone(&host) as _).await;
    let calls: Vec<_> = (0..MAX_CALLS).map(|_| start(&node, "wait")).collect();
    host.entered(MAX_CALLS).await;
    let refused = node.outcome("get", "k", b"").await;
    assert!(matches!(refused, Outcome::Nack(Nack::Busy { .. })), "{refused:?}");
    host.gate.add_permits(MAX_CALLS as usize);
    for call in calls {
        assert!(matches!(call.await.unwrap(), Outcome::Reply(_)));
    }
    assert_eq!(node.answer("incr", "k").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_ahead_of_this_table_stops_the_shard() {
    let (world, [node, other]) = serving(kv()).await;
    let ahead = Epoch(world.row(S0).epoch.0 + 1);
    let outcome = node.shards.call(Call { epoch: ahead, ..node.ask("incr", "k", b"") }).await;
    assert!(matches!(outcome, Outcome::Nack(Nack::StaleReceiver)), "{outcome:?}");
    let outcome = node.outcome("incr", "k", b"").await;
    assert!(matches!(outcome, Outcome::Nack(Nack::StaleReceiver)), "{outcome:?}");
    let outcome = other.outcome("incr", "k", b"").await;
    let Outcome::Nack(Nack::NotOwner { owner, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(owner, Some(node.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_comes_before_the_shard_is_open_waits_for_it() {
    let (world, [node, _other]) = World::new([kv(), kv()]).await;
    let before = Call { map_version: MapVersion(u64::MAX), ..node.ask("incr", "k", b"") };
    let shards = node.shards.clone();
    let early = tokio::spawn(async move { shards.call(before).await });
    world.assign(S0, &node);
    assert!(matches!(early.await.unwrap(), Outcome::Reply(_)));
}
