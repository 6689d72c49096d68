//! Any frames, in any batches, split anywhere, come back as they were; garbage is an error.

use std::time::Duration;

use proptest::{collection::vec, prelude::*};
use shoal_core::id::LogIndex;

use super::*;

fn bytes(longest: usize) -> impl Strategy<Value = Bytes> {
    (any::<u8>(), 0..=longest).prop_map(|(seed, length)| {
        (0..length).map(|at| (at as u8).wrapping_mul(31) ^ seed).collect::<Vec<_>>().into()
    })
}

fn nack() -> impl Strategy<Value = Nack> {
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(owner, epoch, row)| {
            Nack::NotOwner {
                owner: Some(NodeId(owner)).filter(|node| node.0 != 0),
                epoch: Epoch(epoch),
                row: LogIndex(row),
            }
        }),
        any::<u64>().prop_map(|row| Nack::Moving { row: LogIndex(row) }),
        any::<u32>()
            .prop_map(|after| Nack::Busy { after: Duration::from_millis(u64::from(after)) }),
        Just(Nack::StaleReceiver),
        Just(Nack::Expired),
    ]
}

prop_compose! {
    fn head()(
        request in any::<u64>(), call in any::<u128>(), shard in any::<u32>(),
        epoch in any::<u64>(), map_version in any::<u64>(), budget_ms in any::<u32>(),
        attempt in any::<u8>(), idempotent in any::<bool>(), length in any::<u32>(),
        key in bytes(MAX_KEY), method in "\\PC{0,40}", metadata in bytes(100),
    ) -> Head {
        Head {
            request, call, shard: ShardId(shard), epoch: Epoch(epoch),
            map_version: MapVersion(map_version), budget_ms, attempt, idempotent, length, key,
            method, metadata,
        }
    }
}

fn frame() -> impl Strategy<Value = Frame> {
    let hello = (any::<u16>(), any::<bool>(), any::<u128>(), any::<[u64; 4]>(), any::<u16>());
    let hello = (hello, any::<u64>()).prop_map(|((version, node, cluster, ids, thread), g)| {
        let [from, counter, nonce, to] = ids;
        Frame::Hello(Hello {
            version,
            node,
            cluster: ClusterId(cluster),
            from: NodeId(from),
            incarnation: Incarnation { counter, nonce },
            to: NodeId(to),
            thread,
            generation: g,
        })
    });
    let welcome = any::<(u16, u32, u32)>().prop_map(|(version, requests, bytes)| {
        Frame::Welcome(Welcome { version, requests, bytes })
    });
    let answer = (any::<u64>(), any::<u64>().prop_map(Epoch));
    let failed = (answer.clone(), any::<i32>(), "\\PC{0,40}").prop_map(
        |((request, epoch), code, message)| Frame::Failed {
            request,
            epoch,
            error: AppError { code, message },
        },
    );
    prop_oneof![
        hello,
        welcome,
        "\\PC{0,40}".prop_map(|reason| Frame::Refuse { reason }),
        (head(), bytes(CHUNK)).prop_map(|(head, bytes)| Frame::Call { head, bytes }),
        (any::<u64>(), bytes(CHUNK)).prop_map(|(request, bytes)| Frame::Data { request, bytes }),
        any::<u64>().prop_map(|request| Frame::Cancel { request }),
        Just(Frame::Drain),
        (answer.clone(), bytes(CHUNK)).prop_map(|((request, epoch), payload)| Frame::Result {
            request,
            epoch,
            payload
        }),
        (answer, any::<u32>(), bytes(CHUNK)).prop_map(|((request, epoch), length, bytes)| {
            Frame::Begin { request, epoch, length, bytes }
        }),
        failed,
        (any::<u64>(), nack()).prop_map(|(request, nack)| Frame::Nack { request, nack }),
        (any::<u64>(), "\\PC{0,40}")
            .prop_map(|(request, reason)| Frame::Unknown { request, reason }),
    ]
}

/// All batches of `frames` as one run of bytes.
fn encode(frames: &[Frame]) -> Vec<u8> {
    let (mut batch, mut parts) = (Batch::default(), Vec::new());
    for frame in frames {
        batch.push(frame);
        if batch.is_full() {
            batch.take(&mut parts);
        }
    }
    batch.take(&mut parts);
    parts.concat()
}

fn decode(pieces: impl Iterator<Item = Bytes>) -> Result<Vec<Frame>, Error> {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        while let Some(frame) = decoder.next()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_survive_any_split(frames in vec(frame(), 1..12), sizes in vec(1..70_000_usize, 1..9)) {
        let mut whole = Bytes::from(encode(&frames));
        let mut sizes = sizes.iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let size = (*sizes.next()?).min(whole.len());
            (size > 0).then(|| whole.split_to(size))
        });
        prop_assert_eq!(decode(pieces).unwrap(), frames);
    }

    #[test]
    fn every_byte_alone_is_enough(frames in vec(frame(), 1..3)) {
        let whole = Bytes::from(encode(&frames));
        let pieces = (0..whole.len()).map(|at| whole.slice(at..=at));
        prop_assert_eq!(decode(pieces).unwrap(), frames);
    }

    #[test]
    fn garbage_is_an_error_or_waits_for_more(garbage in vec(any::<u8>(), 0..2_000)) {
        let _ = decode(std::iter::once(Bytes::from(garbage)));
    }

    #[test]
    fn a_flipped_byte_never_panics(
        frames in vec(frame(), 1..4), at in any::<prop::sample::Index>(), flip in 1..=255_u8,
    ) {
        let mut whole = encode(&frames);
        let at = at.index(whole.len());
        whole[at] ^= flip;
        let _ = decode(std::iter::once(Bytes::from(whole)));
    }

    #[test]
    fn a_stock_decoder_reads_a_batch(frames in vec(frame(), 1..6)) {
        let whole = encode(&frames);
        let length = u32::from_be_bytes(whole[1..5].try_into().unwrap()) as usize;
        let batch: shoal_proto::shoal::v1::Batch =
            prost::Message::decode(&whole[5..5 + length]).unwrap();
        // And the other way round: a stock encoder writes the length in fewer bytes.
        let mut again = vec![0];
        let message = prost::Message::encode_to_vec(&batch);
        again.extend((message.len() as u32).to_be_bytes());
        again.extend(message);
        let first = decode(std::iter::once(Bytes::from(again))).unwrap();
        prop_assert!(frames.starts_with(&first) && !first.is_empty());
    }
}

#[test]
fn a_batch_stays_under_the_decoders_limit() {
    let head = Head {
        request: 1,
        call: 2,
        shard: ShardId(3),
        epoch: Epoch(4),
        map_version: MapVersion(5),
        budget_ms: 6,
        attempt: 1,
        idempotent: false,
        length: CHUNK as u32,
        key: vec![7; MAX_KEY].into(),
        method: "m".repeat(usize::from(u16::MAX)),
        metadata: vec![8; usize::from(u16::MAX)].into(),
    };
    let frame = Frame::Call { head, bytes: vec![9; CHUNK].into() };
    let mut frames = vec![Frame::Drain; 20];
    frames.resize(29, frame);
    assert_eq!(decode(std::iter::once(Bytes::from(encode(&frames)))).unwrap(), frames);
}

#[test]
fn lengths_over_the_limits_are_refused_before_they_are_buffered() {
    let over = |prefix: [u8; 5]| decode(std::iter::once(Bytes::copy_from_slice(&prefix)));
    assert_eq!(over([0, 0xff, 0xff, 0xff, 0xff]), Err(Error::BatchTooLong(u32::MAX as usize)));
    assert_eq!(over([1, 0, 0, 0, 0]), Err(Error::Compressed));
    let mut long = vec![0, 0, 0, 0, 6, 0x0a, 4];
    long.extend(u32::MAX.to_be_bytes());
    let error = decode(std::iter::once(Bytes::from(long)));
    assert_eq!(error, Err(Error::FrameTooLong { length: u32::MAX as usize, left: 0 }));
}
