//! A certificate authority of a test's own, by openssl.

use std::path::{Path, PathBuf};

use super::program;

/// An authority, and the folder with what it has issued.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its private key, as PEM files.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Keys that are made quickly.
const QUICK: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

impl Authority {
    /// A new one in `dir`.
    ///
    /// # Panics
    /// When openssl fails.
    pub fn new(dir: &Path) -> Self {
        std::fs::create_dir_all(dir).expect("a temporary folder can be written");
        let authority = Authority { dir: dir.to_owned() };
        authority.request("ca", "test authority", &QUICK, &["-addext", "keyUsage=critical,keyCertSign"]);
        authority
    }

    /// Its own certificate, to be trusted.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Issues a certificate for a server with these names and addresses.
    pub fn server(&self, file: &str, names: &[&str]) -> Identity {
        let kinds = names.iter().map(|name| match name.parse::<std::net::IpAddr>() {
            Ok(_) => format!("IP:{name}"),
            Err(_) => format!("DNS:{name}"),
        });
        let names = format!("subjectAltName={}", kinds.collect::<Vec<_>>().join(","));
        self.issue(file, &["-addext", &names, "-addext", "extendedKeyUsage=serverAuth"])
    }

    /// Issues a certificate for a client.
    pub fn client(&self, file: &str) -> Identity {
        self.issue(file, &["-addext", "extendedKeyUsage=clientAuth"])
    }

    fn issue(&self, file: &str, more: &[&str]) -> Identity {
        let (certificate, key) = (self.certificate(), self.dir.join("ca.key"));
        let signer = ["-CA", text(&certificate), "-CAkey", text(&key)];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE"];
        self.request(file, file, &QUICK, &[&signer[..], &leaf, more].concat())
    }

    /// A certificate that its own RSA key has signed, as signers of tokens have.
    pub fn signer(&self, file: &str) -> Identity {
        self.request(file, file, &["-newkey", "rsa:2048"], &[])
    }

    fn request(&self, file: &str, name: &str, key: &[&str], more: &[&str]) -> Identity {
        let made = Identity {
            certificate: self.dir.join(format!("{file}.pem")),
            key: self.dir.join(format!("{file}.key")),
        };
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-subj", &format!("/CN={name}")]);
        openssl.args(key).args(more).arg("-keyout").arg(&made.key).arg("-out").arg(&made.certificate);
        let output = program::run(&mut openssl, b"", program::LIMIT);
        assert_eq!(output.code, 0, "{}", output.stderr);
        made
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders have plain names")
}
