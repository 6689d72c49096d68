//! Texts: settings, ids, headers, answers of HTTP, objects of the API server, certificates.

use std::fmt::Display;

use http::{HeaderMap, HeaderValue};
use shoal_core::id::{ClusterId, Incarnation, LogIndex, MapVersion, MoveId, NodeId, ShardId};
use shoal_worker::{
    config::{HostPort, RunArgs},
    fuzzing,
};

use super::{
    Shape::{Bytes as Blind, Json},
    Target,
    parts::SEVERAL,
    told,
};

pub fn targets() -> Vec<Target> {
    vec![
        Target::judged("config", "config", Blind, config),
        Target::again("address", "config::address", Blind, |bytes| same::<HostPort>(text(bytes)?)),
        Target::again("incarnation", "core::id", Blind, incarnation).memory(QUOTED, 0),
        Target::judged("ids", "core::id", Blind, ids).memory(6 * QUOTED, 0),
        Target::judged("grpc-timeout", "forward::grpc", Blind, timeout),
        Target::judged("http-answer", "cli::http, cli::figures", Blind, |bytes| {
            fuzzing::http_answer(&String::from_utf8_lossy(bytes))
        }),
        Target::judged("pod", "discovery::kubernetes", Json, fuzzing::pod).memory(OBJECTS, 0),
        Target::judged("certificate", "tls::names", Blind, fuzzing::certificate).memory(64, 0),
        Target::judged("tls-files", "tls::material", Blind, tls_files)
            .parts(SEVERAL)
            .memory(64, 1 << 20),
    ]
}

/// Three bytes of JSON can stand for a container of Kubernetes, which is a kilobyte of absent
/// fields. Nobody but the API server sends them.
const OBJECTS: usize = 2_048;
/// A refusal that quotes what it refuses has up to six characters for a byte, twice while the
/// text grows.
const QUOTED: usize = 20;

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(told)
}

/// Lines of `SETTING=value`; HOST_NAME is what the system says.
fn config(bytes: &[u8]) -> Result<(), String> {
    let mut args = RunArgs::default();
    let mut host_name = "host".to_owned();
    for line in text(bytes)?.split('\n') {
        let (setting, value) = line.split_once('=').unwrap_or((line, ""));
        let value = value.to_owned();
        let place = match setting {
            "HOST_NAME" => {
                host_name = value;
                continue;
            }
            "RAFT_DIR" => {
                args.raft_dir = Some(value.into());
                continue;
            }
            "IDENTITY_FILE" => {
                args.identity_file = Some(value.into());
                continue;
            }
            "KUBE_CONFIG" => {
                args.kube_config = Some(value.into());
                continue;
            }
            "TLS_CERT" => {
                args.tls.files.cert = Some(value.into());
                continue;
            }
            "TLS_KEY" => {
                args.tls.files.key = Some(value.into());
                continue;
            }
            "TLS_CA" => {
                args.tls.files.ca = Some(value.into());
                continue;
            }
            setting => place(&mut args, setting),
        };
        if let Some(place) = place {
            *place = Some(value);
        }
    }
    fuzzing::config(&args, &host_name)
}

/// Where a setting that is a text goes.
fn place<'a>(args: &'a mut RunArgs, setting: &str) -> Option<&'a mut Option<String>> {
    Some(match setting {
        "NODE_ADDRESS" => &mut args.node_address,
        "RAFT_ADDRESS" => &mut args.raft_address,
        "ADMIN_ADDRESS" => &mut args.admin_address,
        "HTTP_ADDRESS" => &mut args.http_address,
        "BIND_ADDRESS" => &mut args.bind_address,
        "RAFT_ID" => &mut args.raft_id,
        "JOIN_ADDRESS" => &mut args.join_address,
        "PEER_ADDRESSES" => &mut args.peer_addresses,
        "DISCOVERY" => &mut args.discovery,
        "BOOTSTRAP_EXPECT" => &mut args.bootstrap_expect,
        "SHARDS" => &mut args.shards,
        "LEASE" => &mut args.lease,
        "WEIGHT" => &mut args.weight,
        "ZONE" => &mut args.zone,
        "EPHEMERAL" => &mut args.ephemeral,
        "MAX_PAYLOAD" => &mut args.max_payload,
        "CALL_MEMORY" => &mut args.call_memory,
        "SHUTDOWN_BUDGET" => &mut args.shutdown_budget,
        "POD_NAME" => &mut args.pod.pod_name,
        "POD_NAMESPACE" => &mut args.pod.pod_namespace,
        "POD_UID" => &mut args.pod.pod_uid,
        "POD_IP" => &mut args.pod.pod_ip,
        "REVISION" => &mut args.pod.revision,
        "TERMINATION_LOG" => &mut args.pod.termination_log,
        "LOG_FORMAT" => &mut args.log_format,
        "LOG_LEVEL" => &mut args.log_level,
        "TLS_MODE" => &mut args.tls.mode,
        "TLS_CLIENTS" => &mut args.tls.clients,
        _ => return None,
    })
}

/// A text that is parsed, and displayed again.
fn same<T: std::str::FromStr<Err: Display> + Display>(text: &str) -> Result<Vec<u8>, String> {
    Ok(text.parse::<T>().map_err(told)?.to_string().into_bytes())
}

/// The termination message of a container.
fn incarnation(bytes: &[u8]) -> Result<Vec<u8>, String> {
    Ok(text(bytes)?.parse::<Incarnation>().map_err(told)?.to_text().into_bytes())
}

/// One text as each of the ids, with its display.
fn ids(bytes: &[u8]) -> Result<(), String> {
    let text = text(bytes)?;
    fn twice<T: std::str::FromStr<Err: Display> + Display>(text: &str) -> Result<(), String> {
        let once = same::<T>(text)?;
        let again = String::from_utf8_lossy(&once);
        assert_eq!(same::<T>(&again).as_ref(), Ok(&once), "{text:?}");
        Ok(())
    }
    let all = [
        twice::<NodeId>(text),
        twice::<ShardId>(text),
        twice::<MapVersion>(text),
        twice::<LogIndex>(text),
        twice::<MoveId>(text),
        twice::<ClusterId>(text),
    ];
    let refusal = all.iter().find_map(|one| one.clone().err());
    if all.iter().any(Result::is_ok) { Ok(()) } else { refusal.map_or(Ok(()), Err) }
}

fn timeout(bytes: &[u8]) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-timeout", HeaderValue::from_bytes(bytes).map_err(told)?);
    fuzzing::deadline(&headers)
}

/// Certificate, key, authorities.
fn tls_files(bytes: &[u8]) -> Result<(), String> {
    let files = super::parts::split(bytes).ok_or("no three files")?;
    let file = |at: usize| files.get(at).map(Vec::as_slice).unwrap_or_default();
    fuzzing::tls_files(file(0), file(1), file(2))
}
