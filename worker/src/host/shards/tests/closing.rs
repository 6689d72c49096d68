//! The end of an incarnation, and the next one.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s15_a_new_incarnation_begins_only_when_no_old_handler_runs() {
    let host = Arc::new(Gated::default());
    let (world, [node, _other]) = World::new([Arc::clone(&host) as _, kv()]).await;
    world.assign(S0, &node);
    node.serves(S0).await;
    assert_eq!(node.answer("incr", "k").await, "1");
    let (shards, call) = (node.shards.clone(), node.ask("block", "k", b""));
    let running = tokio::spawn(async move { shards.call(call).await });
    host.entered(1).await;

    let old = world.process(node.id).incarnation;
    node.fence();
    node.right.revoke();
    let shards = node.shards.clone();
    let mut closing = tokio::spawn(async move { shards.close_all(old).await });
    let early = tokio::time::timeout(Duration::from_millis(300), &mut closing).await;
    assert!(early.is_err(), "closed while a handler ran");
    assert_eq!(node.shards.owned().calls, 1);

    host.gate.add_permits(1);
    assert!(matches!(running.await.unwrap(), Outcome::Unknown(_)));
    closing.await.unwrap();
    assert!(!host.closed_busy.load(Ordering::SeqCst));
    node.register(2).await;
    world.assign(S0, &node);
    node.serves(S0).await;
    assert_eq!(node.answer("incr", "k").await, "1", "nothing is left of the old incarnation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_in_place_lets_handlers_finish_and_admits_no_more() {
    let host = Arc::new(Gated::default());
    let (world, [node, _other]) = World::new([Arc::clone(&host) as _, kv()]).await;
    world.assign(S0, &node);
    node.serves(S0).await;
    let (shards, call) = (node.shards.clone(), node.ask("wait", "k", b""));
    let running = tokio::spawn(async move { shards.call(call).await });
    host.entered(1).await;
    let (shards, incarnation) = (node.shards.clone(), world.process(node.id).incarnation);
    let closing = tokio::spawn(async move { shards.close_all(incarnation).await });
    eventually("nothing is admitted", || {
        let call = node.shards.call(node.ask("incr", "n", b"")).now_or_never();
        matches!(call, Some(Outcome::Nack(_))).then_some(())
    })
    .await;
    host.gate.add_permits(1);
    assert!(matches!(running.await.unwrap(), Outcome::Reply(_)), "the right still holds");
    closing.await.unwrap();
    assert_eq!(node.shards.owned(), Owned::default());
    node.shards.close_all(incarnation).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_shard_is_closed_under_a_handler_that_cannot_be_cancelled() {
    let host = Arc::new(Gated::default());
    let (world, [node, _other]) = World::new([Arc::clone(&host) as _, kv()]).await;
    world.assign(S0, &node);
    node.serves(S0).await;
    let (shards, call) = (node.shards.clone(), node.ask("block", "k", b""));
    let running = tokio::spawn(async move { shards.call(call).await });
    host.entered(1).await;
    let (shards, incarnation) = (node.shards.clone(), world.process(node.id).incarnation);
    let mut closing = tokio::spawn(async move { shards.close_all(incarnation).await });
    // Longer than handlers are given to finish.
    let patience = shoal_core::handoff::DRAIN_CAP + Duration::from_millis(200);
    assert!(tokio::time::timeout(patience, &mut closing).await.is_err());
    host.gate.add_permits(1);
    closing.await.unwrap();
    assert!(!host.closed_busy.load(Ordering::SeqCst));
    assert!(!matches!(running.await.unwrap(), Outcome::Nack(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_another_incarnation_closes_nothing() {
    let (world, [node, _other]) = World::new([kv(), kv()]).await;
    world.assign(S0, &node);
    node.serves(S0).await;
    node.shards.close_all(Incarnation { counter: 99, nonce: 9 }).await;
    assert_eq!(node.answer("incr", "k").await, "1");
    assert_eq!(node.shards.owned().open, 1);
}
