//! Decoders that only this crate can reach, for the targets of `tests/fuzz`.
//!
//! Each is one call: what it read, written again where both directions exist, or the words of
//! its refusal. Behind the feature `fuzzing`; no release binary holds it.

use std::{fmt::Display, path::Path};

use bytes::Bytes;
use redb::{StorageBackend as _, backends::InMemoryBackend};
use shoal_proto::shoal::{admin::v1 as admin, peer::v1 as peer, v1 as data};
use tonic::Status;

use crate::{
    admin::change,
    cli,
    config::{Config, RunArgs},
    discovery,
    forward::{grpc, ingress},
    host::kv,
    identity,
    pod::identity_file::IdentityFile,
    raft::{log_store::disk::Disk, record, server::Incoming, snapshot},
    tls,
    wire::{self, registry::encode_snapshot},
};

/// What was read, written again.
pub type Again = Result<Vec<u8>, String>;
/// What has no way back.
pub type Judged = Result<(), String>;

fn told(error: impl Display) -> String {
    error.to_string()
}

#[allow(clippy::needless_pass_by_value)] // a function for map_err
fn said(status: Status) -> String {
    status.message().to_owned()
}

/// An entry as it lies in the log.
pub fn log_entry(bytes: &[u8]) -> Again {
    let entry = wire::raft::read_entry(record::open(bytes).map_err(told)?).map_err(told)?;
    Ok(record::seal(&wire::raft::entry(&entry)))
}

/// The vote as it lies beside the log.
pub fn log_vote(bytes: &[u8]) -> Again {
    let vote = wire::raft::read_vote(Some(record::open(bytes).map_err(told)?)).map_err(told)?;
    Ok(record::seal(&wire::raft::vote(&vote)))
}

/// Where the log was purged, or is committed.
pub fn log_place(bytes: &[u8]) -> Again {
    let place = record::open::<peer::LogId>(bytes).map_err(told)?;
    Ok(record::seal(&wire::raft::log_id(&wire::raft::read_log_id(place))))
}

/// `message` with the version and the checksum of a record of the log.
pub fn seal_record(message: &impl prost::Message) -> Vec<u8> {
    record::seal(message)
}

/// The whole file of the log.
pub fn log_file(bytes: &[u8]) -> Judged {
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64).and_then(|()| memory.write(0, bytes)).map_err(told)?;
    Disk::open_on(Path::new("raft.redb"), memory).map(|_| ()).map_err(told)
}

/// A snapshot of the registry in the Raft directory.
pub fn snapshot_file(bytes: &[u8]) -> Again {
    let read = snapshot::parse(bytes).map_err(told)?;
    Ok(snapshot::compose(&read.meta, &read.snapshot))
}

/// Such a file of any message and any bytes, under right checksums.
pub fn seal_snapshot(meta: peer::SnapshotMeta, data: &[u8]) -> Result<Vec<u8>, String> {
    let meta = wire::raft::read_snapshot_meta(Some(meta)).map_err(told)?;
    Ok(snapshot::compose(&meta, data))
}

/// A snapshot as another node sends it: what was announced, then the chunks.
pub fn snapshot_stream(start: &peer::SnapshotStart, chunks: &[peer::SnapshotChunk]) -> Again {
    let mut incoming = Incoming::begin(start.length, start.crc32).map_err(said)?;
    chunks.iter().try_for_each(|chunk| incoming.take(chunk)).map_err(said)?;
    incoming.finish().map(Into::into).map_err(said)
}

/// The identity of a data directory.
pub fn identity(bytes: &[u8]) -> Again {
    identity::format::encode(&identity::format::decode(bytes).map_err(told)?).map_err(told)
}

/// The members that a data directory remembers.
pub fn members(bytes: &[u8]) -> Again {
    Ok(identity::members::compose(&identity::members::parse(bytes)).into_bytes())
}

/// What an operator decided about the cluster of a pod.
pub fn operator_identity(bytes: &[u8]) -> Judged {
    IdentityFile::parse(bytes).map(|_| ())
}

/// A file of `shoal snapshot`.
pub fn registry_file(bytes: &[u8]) -> Again {
    let registry = cli::snapshot::open(bytes).map_err(|error| format!("{error:#}"))?;
    Ok(cli::snapshot::seal(&encode_snapshot(&registry)))
}

/// Such a file of any bytes, under a right checksum.
pub fn seal_registry_file(data: &[u8]) -> Vec<u8> {
    cli::snapshot::seal(data)
}

/// The body of a call as a client sends it.
pub fn call_request(body: &[u8], limit: usize) -> Again {
    grpc::judge(body, limit).map_err(said)?;
    let call: data::CallRequest = grpc::message(Bytes::copy_from_slice(body)).map_err(said)?;
    ingress::judge(&call.key, &call.method, &call.payload, limit).map_err(said)?;
    Ok(grpc::encode(&call).into())
}

/// The deadline in the headers of a call.
pub fn deadline(headers: &http::HeaderMap) -> Judged {
    grpc::timeout(headers).map(|_| ()).map_err(said)
}

/// One call of the built-in host on a key that holds `stored`.
pub fn kv_call(method: &str, stored: Option<&[u8]>, payload: &[u8]) -> Judged {
    kv::once(method, stored, payload).map(|_| ()).map_err(|error| error.message)
}

/// Settings of a node.
pub fn config(settings: &RunArgs, host_name: &str) -> Judged {
    Config::resolve(settings, host_name).map(|_| ()).map_err(told)
}

/// What an operator or a person asks to be drained.
pub fn drain(request: &admin::DrainRequest) -> Judged {
    change::drain(request).map(|_| ()).map_err(said)
}

pub fn close(request: &admin::CloseRequest) -> Judged {
    change::close(request).map(|_| ()).map_err(said)
}

pub fn report_death(request: &admin::ReportDeathRequest) -> Judged {
    change::report_death(request).map(|_| ()).map_err(said)
}

pub fn confirm_founding(request: &admin::ConfirmFoundingRequest) -> Judged {
    change::cluster(&request.cluster_id).map(|_| ()).map_err(said)
}

pub fn configure(request: &admin::ConfigureRequest) -> Judged {
    let change = wire::admin::read_configure(request).map_err(said)?;
    change::check(&change).map_err(said)
}

/// A pod of the API server, as discovery reads it.
pub fn pod(json: &[u8]) -> Judged {
    let pod = serde_json::from_slice(json).map_err(told)?;
    discovery::kubernetes::node(&pod, 12_000).map(|_| ()).ok_or_else(|| "no node".to_owned())
}

/// The files of TLS: certificate, key, authorities.
pub fn tls_files(cert: &[u8], key: &[u8], ca: &[u8]) -> Judged {
    tls::material::usable(cert, key, ca).map_err(told)
}

/// A certificate that another node shows.
pub fn certificate(der: &[u8]) -> Judged {
    tls::Names::of(&der.into()).map(|names| drop(names.to_string())).map_err(told)
}

/// The answer of a node's HTTP port to the commands.
pub fn http_answer(text: &str) -> Judged {
    match cli::http::read(text) {
        (0, _) => Err("no answer of HTTP".to_owned()),
        (_, body) => {
            let _ = cli::figures::Look::read(&body);
            Ok(())
        }
    }
}
