//! Certificates that the operator issues: an authority that somebody brought and that ends soon.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use shoal_operator::pki;
use shoal_tests::standin::Knobs;

use super::scene::{NAME, Scene, run, spec};

const DAY: i64 = 24 * 60 * 60;
/// Of a new authority.
const YEARS: i64 = 10 * 365 * DAY;

#[test]
fn an_authority_that_ends_soon_is_told_of_and_works_until_then() {
    run("overdue", async |cluster, namespace| {
        let scene = Scene::new(cluster, namespace, Knobs::default()).await;
        let made = Timestamp::now().as_second() - YEARS + 100 * DAY;
        let pair = pki::new_authority(NAME, made).expect("an authority");
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": format!("{NAME}-ca") },
            "stringData": { "tls.crt": pair.certificate, "tls.key": pair.key },
        });
        namespace.apply(&secret.to_string()).expect("applied");
        let mut spec = spec(3);
        spec["tls"] = json!({ "mode": "BuiltIn" });
        scene.create(spec).await;
        let words = scene.reason("Degraded", "CertificateExpiring").await;
        let end = Timestamp::from_second(made + YEARS).expect("a time");
        assert_eq!(
            words,
            format!("Secret {NAME}-ca: its certificate ends {end} and was not renewed")
        );
        scene.ready().await;
        scene.reason("Degraded", "CertificateExpiring").await;
        scene.rests(Duration::from_secs(3)).await;
    });
}
