//! A node's certificate that is issued anew: taken up without a restart and without a failed call.

use anyhow::{Context as _, ensure};
use shoal_tests::{
    deploy::{Site, name, restarts, uid},
    http,
    kube::{Tier, within},
};

use crate::{
    calls::Calls,
    stage::{PATIENCE, Stage},
};

const POD: &str = "orders-1";
const END: &str = "shoal_tls_certificate_not_after_timestamp_seconds";

#[test]
fn a_certificate_is_issued_anew_and_taken_up_without_a_restart() {
    let stage = Stage::of(Tier::Node);
    stage.operator();
    let namespace = stage.namespace("certificates");
    let site = stage.founded(&namespace);
    let pods = site.pods().unwrap();
    let before = ends(&site).unwrap();
    let calls = Calls::start(&site);
    let gone = format!(
        r#"[{{"op":"remove","path":"/data/{POD}.crt"}},{{"op":"remove","path":"/data/{POD}.key"}}]"#
    );
    namespace.kubectl(&["patch", "secret", "orders-tls", "--type=json", "-p", &gone]).unwrap();
    // Nobody watches Secrets; the next pass is minutes away.
    namespace.kubectl(&["annotate", "shc", "orders", "example.com/look=now"]).unwrap();
    let mut looks = 0;
    within(PATIENCE, || {
        // The kubelet brings a Secret within a minute, or as soon as anything else of the pod changes.
        looks += 1;
        let look = format!("example.com/look={looks}");
        namespace.kubectl(&["annotate", "pod", POD, "--overwrite", &look])?;
        let now = ends(&site)?;
        ensure!(now > before, "it still uses the one that ends at {now}");
        Ok(())
    })
    .unwrap();
    calls.end();
    for (old, new) in pods.iter().zip(&site.pods().unwrap()) {
        assert_eq!((uid(old), restarts(old)), (uid(new), restarts(new)), "{}", name(new));
    }
}

/// When the certificate ends that the node uses, in Unix seconds.
fn ends(site: &Site<'_>) -> anyhow::Result<u64> {
    let pods = site.pods()?;
    let pod = pods.iter().find(|pod| name(pod) == POD).context("it is gone")?;
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref());
    let address = format!("{}:14000", address.context("it has no address")?);
    let (_, page) = http::get(&address, "/metrics").map_err(anyhow::Error::msg)?;
    let line = page.lines().find(|line| line.starts_with(END)).context("it has no certificate")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
}
