//! The Secrets of TLS: made where they are missing, renewed in time, and never from an older view.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use tracing::info;

use super::{Context, Error};
use crate::{
    apply::Applier,
    build::{Cluster, secret},
    names::Names,
    observe::Live,
    pki::{self, Authority, Pair, Standing},
    worker_client::Credentials,
};

/// Brings one Secret further, if one has to be. True where it did: then the rest follows with the
/// next pass, on what was stored.
pub(super) async fn ensure(
    cluster: &Cluster<'_>,
    live: &Live,
    applier: &Applier,
    context: &Context,
) -> Result<bool, Error> {
    if !crate::build::pod::encrypted(cluster) {
        return Ok(false);
    }
    let now = Timestamp::now().as_second();
    let Some(secret) = next(cluster, live, now)? else { return Ok(false) };
    info!(cluster = cluster.names.cluster(), secret = ?secret.metadata.name, "writes certificates");
    match secret.metadata.resource_version {
        None => applier.create_secret(&secret).await?,
        Some(_) => applier.replace_secret(&secret).await?,
    }
    context.metrics.wrote();
    Ok(true)
}

/// The first Secret that is missing or not as it should be.
fn next(cluster: &Cluster<'_>, live: &Live, now: i64) -> Result<Option<Secret>, pki::Error> {
    let stored = |name: String| live.secrets.get(&name);
    let Some(ca) = stored(cluster.names.ca_secret())
        .and_then(|kept| secret::read_pair(kept, secret::CERTIFICATE, secret::KEY))
    else {
        let pair = pki::new_authority(cluster.names.cluster(), now)?;
        return Ok(Some(secret::authority(cluster, &pair)));
    };
    let authority = Authority::of(&ca)?;
    let kept = stored(cluster.names.operator_tls_secret());
    let pair = kept.and_then(|kept| secret::read_pair(kept, secret::CERTIFICATE, secret::KEY));
    if !is_good(&authority, pair.as_ref(), now)? {
        let pair = authority.operator(now)?;
        return Ok(Some(over(kept, secret::operator(cluster, &ca.certificate, &pair))));
    }
    let kept = stored(cluster.names.tls_secret());
    let mut nodes = kept.map(secret::read_nodes).unwrap_or_default();
    let wanted = wanted_nodes(cluster, live, &nodes);
    let mut changed = kept.is_none();
    for pod in wanted {
        if !is_good(&authority, nodes.get(&pod), now)? {
            let pair = authority.node(&cluster.names, cluster.namespace, &pod, now)?;
            nodes.insert(pod, pair);
            changed = true;
        }
    }
    let secret = || over(kept, secret::nodes(cluster, &ca.certificate, &nodes));
    Ok(changed.then(secret))
}

fn is_good(authority: &Authority<'_>, pair: Option<&Pair>, now: i64) -> Result<bool, pki::Error> {
    let Some(pair) = pair else { return Ok(false) };
    Ok(authority.standing(&pair.certificate, now)? == Standing::Good)
}

/// The first certificate that nobody renews, in words that stay the same: the authority, which this
/// version does not renew, or any while the operator may not write.
pub(super) fn overdue(names: &Names, live: &Live, now: i64) -> Option<String> {
    let kept = |name: &String| live.secrets.get(name);
    let single = [names.ca_secret(), names.operator_tls_secret()].into_iter().filter_map(|name| {
        let pair = secret::read_pair(kept(&name)?, secret::CERTIFICATE, secret::KEY)?;
        Some((name, "its certificate".to_owned(), pair))
    });
    let name = names.tls_secret();
    let nodes = kept(&name).map(secret::read_nodes).unwrap_or_default().into_iter();
    let nodes = nodes.map(|(pod, pair)| (name.clone(), format!("the certificate of {pod}"), pair));
    single.chain(nodes).find_map(|(name, which, pair)| {
        let end = pki::overdue(&pair.certificate, now).ok()??;
        let end = Timestamp::from_second(end).ok()?;
        Some(format!("Secret {name}: {which} ends {end} and was not renewed"))
    })
}

/// Ahead of the pods; those that are there keep theirs.
fn wanted_nodes(cluster: &Cluster<'_>, live: &Live, nodes: &BTreeMap<String, Pair>) -> Vec<String> {
    let replicas = u32::try_from(cluster.spec.replicas).unwrap_or_default();
    let set = live.set.as_ref().and_then(|set| set.spec.as_ref()).and_then(|spec| spec.replicas);
    let most = replicas.max(set.unwrap_or_default().max(0) as u32);
    let mut all: Vec<String> =
        (0..pki::nodes_to_certify(most)).map(|n| cluster.names.pod(n)).collect();
    all.extend(nodes.keys().filter(|pod| !all.contains(pod)).cloned().collect::<Vec<_>>());
    all
}

/// Replaces exactly the one that was read.
fn over(kept: Option<&Secret>, mut secret: Secret) -> Secret {
    secret.metadata.resource_version = kept.and_then(|kept| kept.metadata.resource_version.clone());
    secret
}

/// What the operator shows the workers; none where nothing is encrypted.
pub(super) fn credentials(
    cluster: &Cluster<'_>,
    live: &Live,
) -> Result<Option<Credentials>, Error> {
    if !crate::build::pod::encrypted(cluster) {
        return Ok(None);
    }
    let Some(kept) = live.secrets.get(&cluster.names.operator_tls_secret()) else {
        return Ok(None);
    };
    let data = kept.data.clone().unwrap_or_default();
    let part = |name: &str| data.get(name).map(|bytes| bytes.0.clone()).unwrap_or_default();
    let credentials = Credentials::new(
        &part(secret::CA_CERTIFICATE),
        &part(secret::CERTIFICATE),
        &part(secret::KEY),
    )?;
    Ok(Some(credentials))
}
