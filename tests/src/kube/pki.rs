//! Certificates and kubeconfigs of a cluster: one authority, valid as long as its directory.

use std::{fs, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use serde_json::json;

use super::component::{API_IP, API_PORT, Node};

/// First address of the Services, that of the API server itself.
const SERVICE_IP: &str = "10.96.0.1";
const CONTEXT: &str = "shoal-tests";

/// Who has a kubeconfig, as (file, group, name).
const USERS: [(&str, Option<&str>, &str); 4] = [
    ("admin", Some("system:masters"), "admin"),
    ("kube-controller-manager", None, "system:kube-controller-manager"),
    ("kube-scheduler", None, "system:kube-scheduler"),
    ("kube-proxy", None, "system:kube-proxy"),
];

struct Authority<'a> {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: &'a Path,
}

/// Writes all of them below `directory`.
pub(crate) fn write(directory: &Path) -> anyhow::Result<()> {
    let authority = Authority::new(directory)?;
    let server = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
    let server = [&server[..], &["kubernetes.default.svc.cluster.local"]].concat();
    let addresses = ["127.0.0.1", SERVICE_IP, API_IP];
    authority.server("apiserver", "kube-apiserver", &[&server[..], &addresses].concat())?;
    authority.client("apiserver-kubelet", Some("system:masters"), "apiserver-kubelet-client")?;
    for (file, group, name) in USERS {
        authority.user(file, group, name)?;
    }
    for node in Node::ALL {
        let name = node.name();
        let file = format!("kubelet-{}", node.number());
        authority.user(&file, Some("system:nodes"), &format!("system:node:{name}"))?;
        authority.server(&format!("{file}-server"), name, &[name, node.ip(), "127.0.0.1"])?;
    }
    let accounts = KeyPair::generate()?;
    fs::write(directory.join("accounts.key"), accounts.serialize_pem())?;
    fs::write(directory.join("accounts.pub"), accounts.public_key_pem())?;
    Ok(())
}

impl<'a> Authority<'a> {
    fn new(directory: &'a Path) -> anyhow::Result<Self> {
        let mut params = params(None, "kubernetes", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(directory.join("ca.crt"), issuer.pem())?;
        fs::write(directory.join("ca.key"), issuer.key().serialize_pem())?;
        Ok(Self { issuer, directory })
    }

    fn server(&self, file: &str, name: &str, subjects: &[&str]) -> anyhow::Result<()> {
        self.sign(file, params(None, name, subjects)?, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, file: &str, group: Option<&str>, name: &str) -> anyhow::Result<()> {
        self.sign(file, params(group, name, &[])?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn user(&self, file: &str, group: Option<&str>, name: &str) -> anyhow::Result<()> {
        self.client(file, group, name)?;
        // Files beside it, so that it holds inside and outside.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CONTEXT,
            "clusters": [{"name": CONTEXT, "cluster": {
                "server": format!("https://{API_IP}:{API_PORT}"),
                "certificate-authority": "ca.crt",
            }}],
            "users": [{"name": name, "user": {
                "client-certificate": format!("{file}.crt"),
                "client-key": format!("{file}.key"),
            }}],
            "contexts": [{"name": CONTEXT, "context": {"cluster": CONTEXT, "user": name}}],
        });
        fs::write(self.directory.join(format!("{file}.kubeconfig")), config.to_string())?;
        Ok(())
    }

    fn sign(
        &self,
        file: &str,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
    ) -> anyhow::Result<()> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        fs::write(self.directory.join(format!("{file}.crt")), certificate.pem())?;
        fs::write(self.directory.join(format!("{file}.key")), key.serialize_pem())?;
        Ok(())
    }
}

fn params(
    group: Option<&str>,
    name: &str,
    subjects: &[&str],
) -> Result<CertificateParams, rcgen::Error> {
    let subjects: Vec<_> = subjects.iter().map(|&subject| subject.to_owned()).collect();
    let mut params = CertificateParams::new(subjects)?;
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
