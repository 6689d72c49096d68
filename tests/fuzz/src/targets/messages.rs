//! Messages of nodes, of clients and of those who administer, and the frames of pipes.

use bytes::Bytes;
use prost::Message as _;
use shoal_proto::shoal::{admin::v1 as admin, kv::v1 as kv, peer::v1 as pb};
use shoal_worker::{
    forward::frame::{self, Batch},
    fuzzing,
    wire::{found, handover, map, session},
};

use super::{
    Shape::{Bytes as Blind, Message},
    Target,
    parts::{FRAMES, GRPC},
    told,
};

type Again = Result<Vec<u8>, String>;
type Judged = Result<(), String>;

pub fn targets() -> Vec<Target> {
    let mut all = peers();
    all.extend(administration());
    all.extend([
        Target::again("pipe-frames", "forward::frame", Blind, frames).parts(FRAMES),
        Target::again(
            "call-request",
            "forward::grpc, forward::ingress",
            Message("shoal.v1.CallRequest"),
            |bytes| fuzzing::call_request(bytes, MAX_PAYLOAD),
        )
        .parts(GRPC),
        Target::judged("kv-call", "host::kv", Message("shoal.kv.v1.CompareAndSet"), kv_call)
            .memory(QUOTED, 0),
    ]);
    all
}

/// A name that no method has is quoted, with up to six characters for a byte.
const QUOTED: usize = 24;
/// Bounds what a call holds; small, so that inputs reach it.
const MAX_PAYLOAD: usize = 4_096;

fn peers() -> Vec<Target> {
    const SESSION: &str = "wire::session";
    vec![
        Target::again(
            "founding-question",
            "wire::found",
            Message("shoal.peer.v1.FoundingQuestion"),
            question,
        ),
        Target::again(
            "founding-answer",
            "wire::found",
            Message("shoal.peer.v1.FoundingAnswer"),
            answer,
        )
        .memory(LISTS, 0),
        Target::again("map-event", "wire::map", Message("shoal.peer.v1.WatchMapEvent"), event)
            .memory(LISTS, 0),
        Target::again(
            "handover-frame",
            "wire::handover",
            Message("shoal.peer.v1.TransferFrame"),
            handover_frame,
        ),
        Target::again(
            "handover-reply",
            "wire::handover",
            Message("shoal.peer.v1.TransferReply"),
            handover_reply,
        ),
        Target::again("session-join", SESSION, Message("shoal.peer.v1.JoinRequest"), join),
        Target::again(
            "session-register",
            SESSION,
            Message("shoal.peer.v1.RegisterRequest"),
            register,
        ),
        Target::again("session-renew", SESSION, Message("shoal.peer.v1.RenewRequest"), renew),
        Target::again("session-leave", SESSION, Message("shoal.peer.v1.LeaveRequest"), leave),
        Target::again("session-report", SESSION, Message("shoal.peer.v1.MoveReport"), report),
        Target::judged(
            "session-answer",
            SESSION,
            Message("shoal.peer.v1.SessionResponse"),
            |bytes| {
                let _ = session::read_answer(decode(bytes)?);
                Ok(())
            },
        ),
    ]
}

/// Two bytes of a list can stand for one element, whose parts are all absent.
const LISTS: usize = 96;

fn administration() -> Vec<Target> {
    const CHANGE: &str = "admin::change";
    vec![
        Target::judged(
            "admin-configure",
            "wire::admin",
            Message("shoal.admin.v1.ConfigureRequest"),
            |bytes| fuzzing::configure(&decode(bytes)?),
        ),
        Target::judged("admin-drain", CHANGE, Message("shoal.admin.v1.DrainRequest"), |bytes| {
            fuzzing::drain(&decode(bytes)?)
        }),
        Target::judged("admin-close", CHANGE, Message("shoal.admin.v1.CloseRequest"), |bytes| {
            fuzzing::close(&decode(bytes)?)
        }),
        Target::judged(
            "admin-report-death",
            CHANGE,
            Message("shoal.admin.v1.ReportDeathRequest"),
            |bytes| fuzzing::report_death(&decode(bytes)?),
        ),
        Target::judged(
            "admin-confirm-founding",
            CHANGE,
            Message("shoal.admin.v1.ConfirmFoundingRequest"),
            |bytes| fuzzing::confirm_founding(&decode::<admin::ConfirmFoundingRequest>(bytes)?),
        ),
    ]
}

fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, String> {
    M::decode(bytes).map_err(told)
}

fn question(bytes: &[u8]) -> Again {
    let read = found::question_in(decode(bytes)?).map_err(told)?;
    Ok(found::question_out(&read).encode_to_vec())
}

fn answer(bytes: &[u8]) -> Again {
    let read = found::answer_in(decode(bytes)?).map_err(told)?;
    Ok(found::answer_out(&read).encode_to_vec())
}

fn event(bytes: &[u8]) -> Again {
    let read = map::read_event(decode(bytes)?).map_err(told)?;
    Ok(map::event(read).encode_to_vec())
}

fn handover_frame(bytes: &[u8]) -> Again {
    let read = handover::read_frame(decode(bytes)?).map_err(told)?;
    Ok(handover::frame(read).encode_to_vec())
}

fn handover_reply(bytes: &[u8]) -> Again {
    let read = handover::read_reply(decode(bytes)?).map_err(told)?;
    Ok(handover::reply(read).expect("a target says it").encode_to_vec())
}

fn join(bytes: &[u8]) -> Again {
    let message: pb::JoinRequest = decode(bytes)?;
    let info = session::read_node_info(message.info).map_err(told)?;
    let directory = session::read_directory(&message.directory).map_err(told)?;
    let directory = Bytes::copy_from_slice(&directory.to_be_bytes());
    let info = Some(session::node_info(&info));
    Ok(pb::JoinRequest { hop: None, info, directory }.encode_to_vec())
}

fn register(bytes: &[u8]) -> Again {
    let read = session::read_register(decode(bytes)?).map_err(told)?;
    let message = pb::RegisterRequest {
        hop: None,
        node: read.node.0,
        incarnation: Some(session::incarnation(read.incarnation)),
        info: Some(session::node_info(&read.info)),
        lock: read.lock.as_ref().map(session::lock),
    };
    Ok(message.encode_to_vec())
}

fn renew(bytes: &[u8]) -> Again {
    let read = session::read_renew(&decode(bytes)?).map_err(told)?;
    let left = |left: std::time::Duration| left.as_millis().try_into();
    let message = pb::RenewRequest {
        hop: None,
        node: read.node.0,
        incarnation: Some(session::incarnation(read.incarnation)),
        table_index: read.table.0,
        leaves_within_ms: read.leaves_within.map(left).transpose().map_err(told)?,
    };
    Ok(message.encode_to_vec())
}

fn leave(bytes: &[u8]) -> Again {
    let message: pb::LeaveRequest = decode(bytes)?;
    let incarnation = session::read_incarnation(message.incarnation).map_err(told)?;
    let incarnation = Some(session::incarnation(incarnation));
    Ok(pb::LeaveRequest { hop: None, incarnation, ..message }.encode_to_vec())
}

fn report(bytes: &[u8]) -> Again {
    let read = session::read_report(decode(bytes)?).map_err(told)?;
    Ok(session::report(&read).encode_to_vec())
}

/// The same bytes whole, in two pieces and one by one give the same frames; they are written
/// as one batch.
fn frames(bytes: &[u8]) -> Again {
    let whole = read_frames([Bytes::copy_from_slice(bytes)]);
    let middle = bytes.len() / 2;
    let halves = [&bytes[..middle], &bytes[middle..]].map(Bytes::copy_from_slice);
    assert_eq!(read_frames(halves), whole, "cut at {middle}");
    if bytes.len() <= 256 {
        let single = bytes.chunks(1).map(Bytes::copy_from_slice);
        assert_eq!(read_frames(single), whole, "byte by byte");
    }
    let mut batch = Batch::default();
    whole?.iter().for_each(|frame| batch.push(frame));
    let mut written: Vec<Bytes> = Vec::new();
    batch.take(&mut written);
    Ok(written.concat())
}

fn read_frames(pieces: impl IntoIterator<Item = Bytes>) -> Result<Vec<frame::Frame>, String> {
    let (mut decoder, mut frames) = (frame::Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        while let Some(frame) = decoder.next().map_err(told)? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

/// Each method with this payload, on a key that holds nothing and on one that holds as much.
fn kv_call(payload: &[u8]) -> Judged {
    let stored = kv::CompareAndSet::decode(payload).ok().and_then(|wish| wish.expected);
    let name = String::from_utf8_lossy(payload);
    for stored in [None, Some(payload), stored.as_deref()] {
        for method in ["get", "put", "delete", &name] {
            let _ = fuzzing::kv_call(method, stored, payload);
        }
    }
    let added = fuzzing::kv_call("incr", Some(payload), payload);
    added.or_else(|_| fuzzing::kv_call("compare-and-set", stored.as_deref(), payload))
}
