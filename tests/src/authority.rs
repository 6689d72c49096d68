//! An authority of certificates, and what it gives out: to nodes as files, to clients as they
//! are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// Where a node finds its files.
#[derive(Clone, Debug)]
pub struct Paths {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("it signs itself");
        Self { issuer }
    }

    /// Its own certificate, as TLS_CA takes it.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For a server and client with these DNS names and IP addresses.
    pub fn node(&self, names: &[&str]) -> Issued {
        use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
        self.issue(names, vec![ServerAuth, ClientAuth])
    }

    pub fn client(&self, names: &[&str]) -> Issued {
        self.issue(names, vec![ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn issue(&self, names: &[&str], uses: Vec<ExtendedKeyUsagePurpose>) -> Issued {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("these are names");
        params.extended_key_usages = uses;
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.issuer).expect("it can be signed");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Paths {
    /// In `directory`, under names that begin with `stem`.
    pub fn under(directory: &Path, stem: &str) -> Self {
        let path = |ending| directory.join(format!("{stem}.{ending}"));
        Self { cert: path("crt"), key: path("key"), ca: path("ca") }
    }

    /// Writes all three.
    pub fn fill(&self, issued: &Issued, authorities: &[&Authority]) {
        let ca: String = authorities.iter().map(|authority| authority.pem()).collect();
        fs::write(&self.cert, &issued.certificate).expect("the certificate is written");
        fs::write(&self.key, &issued.key).expect("the key is written");
        fs::write(&self.ca, ca).expect("the authorities are written");
    }
}
