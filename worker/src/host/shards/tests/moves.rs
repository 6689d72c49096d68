//! Shards that move while they are called.

use shoal_core::{admit::Nack, handoff::Refusal};

use super::*;

/// Increments one key wherever the shard is, until told to stop; answers how many were
/// acknowledged.
async fn increment(nodes: Arc<[Node; 2]>, stop: Arc<AtomicBool>) -> u64 {
    let mut acknowledged = 0;
    while !stop.load(Ordering::SeqCst) {
        let owner = nodes[0].world.row(S0).owner().unwrap().0;
        let node = nodes.iter().find(|node| node.id == owner).unwrap();
        match node.outcome("incr", "n", b"").await {
            Outcome::Reply(Reply { result: Ok(_), .. }) => acknowledged += 1,
            Outcome::Nack(Nack::Moving { .. } | Nack::NotOwner { .. } | Nack::StaleReceiver) => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            other => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    acknowledged
}

async fn under_load(leader: Leader, moves: u32) -> (Arc<[Node; 2]>, u64) {
    let (world, nodes) = World::new([kv(), kv()]).await;
    *world.leader.lock() = leader;
    world.assign(S0, &nodes[0]);
    nodes[0].serves(S0).await;
    let (nodes, stop) = (Arc::new(nodes), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> =
        (0..4).map(|_| tokio::spawn(increment(Arc::clone(&nodes), Arc::clone(&stop)))).collect();
    for _ in 0..moves {
        let owner = world.row(S0).owner().unwrap().0;
        let target = nodes.iter().find(|node| node.id != owner).unwrap();
        let before = world.row(S0).changed;
        world.begin_move(S0, target);
        let ended = eventually("the move ends", || {
            let row = world.row(S0);
            (row.changed > before && row.target().is_none()).then(|| row.owner().unwrap().0)
        });
        let ended = ended.await;
        nodes.iter().find(|node| node.id == ended).unwrap().serves(S0).await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = 0;
    for client in clients {
        acknowledged += client.await.unwrap();
    }
    (nodes, acknowledged)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_increment_moves_along() {
    let (nodes, acknowledged) = under_load(Leader::Commits, 4).await;
    assert!(acknowledged > 0);
    assert_eq!(nodes[0].answer("get", "n").await, acknowledged.to_string());
    let (out, into) = (nodes[0].shards.metrics(), nodes[1].shards.metrics());
    assert_eq!((out.moved_out.get(), into.moved_in.get()), (2, 2));
    assert_eq!((pauses(out).0, pauses(into).0), (2, 2));
    assert_eq!(nodes[1].shards.owned(), Owned::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_move_aborted_after_the_release_leaves_everything_with_its_owner() {
    let (nodes, acknowledged) = under_load(Leader::Aborts, 3).await;
    assert_eq!(nodes[0].answer("get", "n").await, acknowledged.to_string());
    assert_eq!(nodes[0].shards.metrics().moved_out.get(), 0);
    let target = &nodes[1].shards;
    eventually("the target drops", || (target.owned().receiving == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p6_a_large_state_moves_with_a_short_pause() {
    const VALUE: usize = 1 << 20;
    let (world, [source, target]) = World::new([kv(), kv()]).await;
    world.assign(S0, &source);
    source.serves(S0).await;
    for i in 0..64_u8 {
        let outcome = source.outcome("put", &format!("big-{i}"), &vec![i; VALUE]).await;
        assert!(matches!(outcome, Outcome::Reply(_)), "{outcome:?}");
    }
    world.begin_move(S0, &target);
    target.serves(S0).await;
    let (count, pause) = pauses(source.shards.metrics());
    assert!(count == 1 && pause < 1.0, "paused for {pause} s");
    for i in 0..64_u8 {
        let value = target.outcome("get", &format!("big-{i}"), b"").await;
        let Outcome::Reply(Reply { result: Ok(value), .. }) = value else { panic!("{value:?}") };
        assert!(value.len() == VALUE && value.iter().all(|byte| *byte == i));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s19_state_of_an_aborted_move_is_not_found_by_a_later_assignment() {
    let (world, [source, target]) = World::new([kv(), kv()]).await;
    *world.leader.lock() = Leader::Deaf;
    world.assign(S0, &source);
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "1");
    let key = world.begin_move(S0, &target);
    eventually("released", || world.reports.lock().contains(&News::Released).then_some(())).await;
    assert_eq!(target.shards.owned().receiving, 1);
    // The source dies; its fence gives the shard to the node that holds the state of the move.
    source.fence();
    world.assign(S0, &target);
    target.serves(S0).await;
    assert_eq!(target.answer("incr", "n").await, "1", "opened empty, not from {key:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p2_a_long_call_ends_the_move_and_not_itself() {
    let host = Arc::new(Gated::default());
    let (world, [source, target]) = World::new([Arc::clone(&host) as _, kv()]).await;
    world.assign(S0, &source);
    source.serves(S0).await;
    let (shards, call) = (source.shards.clone(), source.ask("wait", "k", b""));
    let running = tokio::spawn(async move { shards.call(call).await });
    host.entered(1).await;
    world.begin_move(S0, &target);
    eventually("the owner refuses", || match source.shards.owned().leaving {
        0 => None,
        _ => Some(()),
    })
    .await;
    let refused = source.outcome("incr", "n", b"").await;
    assert!(matches!(refused, Outcome::Nack(Nack::Moving { .. })), "{refused:?}");
    assert_eq!(world.gave_up().await, GiveUp::SlowCalls);
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "1");
    host.gate.add_permits(1);
    let Outcome::Reply(reply) = running.await.unwrap() else { panic!("cancelled") };
    assert_eq!(reply.result.unwrap(), "true");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_must_leave_cancels_what_does_not_end() {
    let host = Arc::new(Gated::default());
    let (world, [source, target]) = World::new([Arc::clone(&host) as _, kv()]).await;
    world.assign(S0, &source);
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "1");
    let (shards, call) = (source.shards.clone(), source.ask("wait", "k", b""));
    let running = tokio::spawn(async move { shards.call(call).await });
    host.entered(1).await;
    source.shards.leave_by(clock::now().plus(Duration::from_secs(3)));
    world.begin_move(S0, &target);
    assert!(matches!(running.await.unwrap(), Outcome::Unknown(_)));
    target.serves(S0).await;
    assert_eq!(target.answer("incr", "n").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_cannot_take_the_state_ends_the_move() {
    let host = Arc::new(Gated { deny_import: true, ..Gated::default() });
    let (world, [source, target]) = World::new([kv(), host]).await;
    world.assign(S0, &source);
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "1");
    world.begin_move(S0, &target);
    assert_eq!(world.gave_up().await, GiveUp::Refused(Refusal::CannotPrepare));
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "2");
}

/// Implements what it must and no more: its state, if any, lies elsewhere.
struct Stateless;

impl ShardHost for Stateless {
    fn reset(&self) -> Step<'_, ()> {
        async { Ok(()) }.boxed()
    }

    fn open(&self, _: ShardId, _: Epoch, start: Start) -> Step<'_, ()> {
        async move {
            let given = start == Start::Imported;
            let wrong = crate::host::api::Error::App("nothing was imported".to_owned());
            if given { Err(wrong) } else { Ok(()) }
        }
        .boxed()
    }

    fn call(&self, call: HostCall) -> BoxFuture<'_, Result<Bytes, crate::call::AppError>> {
        async move { Ok(call.key) }.boxed()
    }

    fn close(&self, _: ShardId) -> Step<'_, ()> {
        async { Ok(()) }.boxed()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_whose_host_gives_no_state_moves() {
    let (world, [source, target]) = World::new([Arc::new(Stateless), Arc::new(Stateless)]).await;
    world.assign(S0, &source);
    source.serves(S0).await;
    world.begin_move(S0, &target);
    target.serves(S0).await;
    assert_eq!(target.answer("any", "n").await, "n");
    let (out, into) = (source.shards.metrics(), target.shards.metrics());
    assert_eq!((out.moved_out.get(), out.aborted.get(), into.moved_in.get()), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s12_a_target_that_dies_before_the_commit_costs_nothing() {
    let (world, [source, target]) = World::new([kv(), kv()]).await;
    *world.leader.lock() = Leader::Deaf;
    world.assign(S0, &source);
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "1");
    world.begin_move(S0, &target);
    eventually("released", || world.reports.lock().contains(&News::Released).then_some(())).await;
    target.fence();
    source.serves(S0).await;
    assert_eq!(source.answer("incr", "n").await, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p4_a_target_out_of_reach_is_asked_again_while_its_owner_serves() {
    let (world, [source, target]) = World::new([kv(), kv()]).await;
    world.assign(S0, &source);
    source.serves(S0).await;
    let address = world.addresses.lock().insert(target.id, "127.0.0.1:1".to_owned()).unwrap();
    world.begin_move(S0, &target);
    eventually("the owner asks again", || {
        let working = world.reports.lock().iter().filter(|news| **news == News::Working).count();
        (working >= 3).then_some(())
    })
    .await;
    assert_eq!(source.answer("incr", "n").await, "1");
    world.addresses.lock().insert(target.id, address);
    target.serves(S0).await;
    assert_eq!(target.answer("incr", "n").await, "2");
}
