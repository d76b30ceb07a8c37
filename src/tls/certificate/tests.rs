//! Chains made for each test, and for every error and warning a file that shows it.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, SanType,
    SignatureAlgorithm,
};
use rustls::SignatureScheme;

use super::error::BrokenLink;
use crate::config::{Files, TlsPolicy};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A root, an intermediate and a leaf, in a directory of their own.
struct Pki {
    directory: tempfile::TempDir,
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
    leaf: String,
    key: KeyPair,
}

impl Pki {
    fn new(algorithm: &'static SignatureAlgorithm) -> Self {
        Self::with_leaf(algorithm, leaf_params(&["example.org"]))
    }

    fn with_leaf(algorithm: &'static SignatureAlgorithm, params: CertificateParams) -> Self {
        let root = CertifiedIssuer::self_signed(ca_params("Root"), new_key(algorithm)).unwrap();
        let intermediate =
            CertifiedIssuer::signed_by(ca_params("Intermediate"), new_key(algorithm), &root)
                .unwrap();
        let key = new_key(algorithm);
        let leaf = params.signed_by(&key, &intermediate).unwrap().pem();
        let pki = Self {
            directory: tempfile::tempdir().unwrap(),
            root,
            intermediate,
            leaf,
            key,
        };
        pki.write_chain(&[&pki.leaf, &pki.intermediate()]);
        pki.write_key(pki.key.serialize_pem().as_bytes());
        pki
    }

    fn p256() -> Self {
        Self::new(&PKCS_ECDSA_P256_SHA256)
    }

    fn root(&self) -> String {
        self.root.as_ref().pem()
    }

    fn intermediate(&self) -> String {
        self.intermediate.as_ref().pem()
    }

    fn certificate_file(&self) -> PathBuf {
        self.directory.path().join("chain.pem")
    }

    fn key_file(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    fn write_chain(&self, certificates: &[&str]) {
        fs::write(self.certificate_file(), certificates.concat()).unwrap();
    }

    fn write_key(&self, content: &[u8]) {
        fs::write(self.key_file(), content).unwrap();
        fs::set_permissions(self.key_file(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self) -> Result<Loaded, CertificateError> {
        self.load_as("example.org")
    }

    fn load_as(&self, name: &str) -> Result<Loaded, CertificateError> {
        self.load_at(name, now())
    }

    fn load_at(&self, name: &str, now: SystemTime) -> Result<Loaded, CertificateError> {
        let site = Site {
            names: vec![name.to_owned()],
            certificate_file: self.certificate_file(),
            key_file: self.key_file(),
            tls: TlsPolicy::default(),
            hsts: None,
            files: Files::new(self.directory.path().to_owned()),
            routes: Vec::new(),
            tunnel: None,
            access: Default::default(),
            access_log: Default::default(),
            rate_limit: None,
        };
        load(&site, now)
    }

    /// The error of loading; its text names the file that it concerns and holds all `expected`.
    fn error(&self, concerned: &Path, expected: &[&str]) -> CertificateError {
        let error = self.load().unwrap_err();
        assert_says(&error, error.file(), concerned, expected);
        error
    }

    /// The only warning of loading, checked as by [`Self::error`].
    fn warning(&self, concerned: &Path, expected: &[&str]) -> Warning {
        let warnings = self.load().unwrap().warnings;
        let [warning] = warnings.as_slice() else {
            panic!("not one warning: {warnings:?}");
        };
        assert_says(warning, warning.file(), concerned, expected);
        warning.clone()
    }
}

fn assert_says(text: &dyn std::fmt::Display, file: &Path, concerned: &Path, expected: &[&str]) {
    let text = text.to_string();
    assert_eq!(file, concerned, "{text}");
    assert!(
        text.starts_with(&format!("{}: ", concerned.display())),
        "{text}"
    );
    assert!(!text.contains('\n'), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn new_key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn leaf_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = (now() - DAY * 10).into();
    params.not_after = (now() + DAY * 80).into();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params
}

fn openssl(arguments: &[&str], files: &[&Path]) {
    let mut command = Command::new("openssl");
    for argument in arguments {
        match *argument {
            "IN" => command.arg(files[0]),
            "OUT" => command.arg(files[1]),
            argument => command.arg(argument),
        };
    }
    let output = command
        .output()
        .expect("the openssl command is needed: install the Debian package openssl");
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The key of `pki` rewritten by openssl; `marker` proves that it has the wanted encoding.
fn reencode(pki: &Pki, arguments: &[&str], marker: &str) {
    let out = pki.directory.path().join("reencoded.pem");
    openssl(arguments, &[&pki.key_file(), &out]);
    let content = fs::read(&out).unwrap();
    assert!(String::from_utf8_lossy(&content).contains(marker));
    pki.write_key(&content);
}

fn assert_signs_with(pki: &Pki, scheme: SignatureScheme) {
    let loaded = pki.load().unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.expires, now() + DAY * 80);
    assert_eq!(loaded.certified.cert.len(), 2);
    let signer = loaded.certified.key.choose_scheme(&[scheme]).unwrap();
    assert!(!signer.sign(b"transcript").unwrap().is_empty());
}

#[test]
fn p256_in_pkcs8_and_sec1() {
    let pki = Pki::p256();
    assert_signs_with(&pki, SignatureScheme::ECDSA_NISTP256_SHA256);
    reencode(
        &pki,
        &["ec", "-in", "IN", "-out", "OUT"],
        "BEGIN EC PRIVATE KEY",
    );
    assert_signs_with(&pki, SignatureScheme::ECDSA_NISTP256_SHA256);
}

#[test]
fn p384_in_pkcs8_and_sec1() {
    let pki = Pki::new(&PKCS_ECDSA_P384_SHA384);
    assert_signs_with(&pki, SignatureScheme::ECDSA_NISTP384_SHA384);
    reencode(
        &pki,
        &["ec", "-in", "IN", "-out", "OUT"],
        "BEGIN EC PRIVATE KEY",
    );
    assert_signs_with(&pki, SignatureScheme::ECDSA_NISTP384_SHA384);
}

#[test]
fn rsa_in_pkcs8_and_pkcs1() {
    let pki = Pki::new(&PKCS_RSA_SHA256);
    assert_signs_with(&pki, SignatureScheme::RSA_PSS_SHA256);
    let traditional = ["rsa", "-traditional", "-in", "IN", "-out", "OUT"];
    reencode(&pki, &traditional, "BEGIN RSA PRIVATE KEY");
    assert_signs_with(&pki, SignatureScheme::RSA_PSS_SHA256);
}

#[test]
fn ed25519_in_both_versions_of_pkcs8() {
    let pki = Pki::new(&PKCS_ED25519);
    assert_signs_with(&pki, SignatureScheme::ED25519);
    let out = pki.directory.path().join("openssl.pem");
    openssl(
        &["genpkey", "-algorithm", "ed25519", "-out", "OUT"],
        &[Path::new(""), &out],
    );
    let key_pem = fs::read_to_string(&out).unwrap();
    let key = KeyPair::from_pem(&key_pem).unwrap();
    let leaf = leaf_params(&["example.org"])
        .signed_by(&key, &pki.intermediate)
        .unwrap();
    pki.write_chain(&[&leaf.pem(), &pki.intermediate()]);
    pki.write_key(key_pem.as_bytes());
    assert_signs_with(&pki, SignatureScheme::ED25519);
}

#[test]
fn chain_and_key_in_one_file_and_crlf_and_text_around() {
    let pki = Pki::p256();
    let all = format!(
        "subject=leaf\n{}{}{}",
        pki.key.serialize_pem(),
        pki.leaf,
        pki.intermediate()
    );
    for text in [
        all.replace("\r\n", "\n"),
        all.replace("\r\n", "\n").replace('\n', "\r\n"),
    ] {
        pki.write_key(text.as_bytes());
        let names = ["example.org".to_owned()];
        let loaded = load_files(&pki.key_file(), &pki.key_file(), &names, now()).unwrap();
        assert_eq!(loaded.warnings, []);
        assert_eq!(loaded.certified.cert.len(), 2);
    }
}

#[test]
fn ec_parameters_before_the_key_are_passed_over() {
    let pki = Pki::p256();
    let out = pki.directory.path().join("openssl.pem");
    let arguments = ["ecparam", "-name", "prime256v1", "-genkey", "-out", "OUT"];
    openssl(&arguments, &[Path::new(""), &out]);
    let key_pem = fs::read_to_string(&out).unwrap();
    assert!(key_pem.contains("BEGIN EC PARAMETERS"));
    pki.write_key(key_pem.as_bytes());
    let certificate_file = pki.certificate_file();
    let error = pki.error(
        &pki.key_file(),
        &["does not belong to", certificate_file.to_str().unwrap()],
    );
    assert!(
        matches!(error, CertificateError::KeyMismatch { .. }),
        "{error:?}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let pki = Pki::p256();
    fs::remove_file(pki.key_file()).unwrap();
    let error = pki.error(&pki.key_file(), &["cannot be read", "correct the path"]);
    assert!(matches!(error, CertificateError::Unreadable { .. }));

    fs::remove_file(pki.certificate_file()).unwrap();
    fs::create_dir(pki.certificate_file()).unwrap();
    let error = pki.error(&pki.certificate_file(), &["not a regular file"]);
    assert!(matches!(error, CertificateError::NotRegularFile { .. }));
}

#[test]
fn a_fifo_is_refused_without_waiting_for_a_writer() {
    let pki = Pki::p256();
    fs::remove_file(pki.key_file()).unwrap();
    let made = Command::new("mkfifo").arg(pki.key_file()).status();
    assert!(
        made.expect("mkfifo is needed: install the Debian package coreutils")
            .success()
    );
    let error = pki.error(&pki.key_file(), &["not a regular file"]);
    assert!(matches!(error, CertificateError::NotRegularFile { .. }));
}

#[test]
fn too_large_files() {
    let pki = Pki::p256();
    let padding = " ".repeat(FILE_BYTES_MAX + 1 - pki.leaf.len());
    pki.write_chain(&[&pki.leaf, &padding]);
    let error = pki.error(&pki.certificate_file(), &["larger than 262144 bytes"]);
    assert!(matches!(error, CertificateError::TooLarge { .. }));
    pki.write_chain(&[&pki.leaf, &padding[1..]]);
    pki.load().unwrap();
}

#[test]
fn files_without_a_certificate() {
    let pki = Pki::p256();
    pki.write_chain(&[]);
    pki.error(
        &pki.certificate_file(),
        &["holds no certificate; it must hold"],
    );
    pki.write_chain(&[&pki.key.serialize_pem()]);
    let error = pki.error(&pki.certificate_file(), &["only \"PRIVATE KEY\""]);
    assert!(matches!(error, CertificateError::NoCertificate { .. }));
}

#[test]
fn binary_files() {
    let pki = Pki::p256();
    fs::write(pki.certificate_file(), pki.intermediate.as_ref().der()).unwrap();
    let error = pki.error(&pki.certificate_file(), &["openssl x509 -inform der"]);
    assert!(matches!(error, CertificateError::CertificateNotPem { .. }));

    let pki = Pki::p256();
    pki.write_key(&pki.key.serialize_der());
    let error = pki.error(&pki.key_file(), &["openssl pkey -inform der"]);
    assert!(matches!(error, CertificateError::KeyNotPem { .. }));
}

#[test]
fn damaged_armour() {
    let pki = Pki::p256();
    let end = pki.leaf.find("-----END").unwrap();
    pki.write_chain(&[&pki.leaf[..end]]);
    pki.error(
        &pki.certificate_file(),
        &["\"CERTIFICATE\" section has no END line"],
    );
    pki.write_chain(&[&pki.leaf.replace("CERTIFICATE-----", "CERTIFICATE---")]);
    pki.error(&pki.certificate_file(), &["five dashes"]);
    pki.write_chain(&[&pki.leaf, &pki.intermediate()]);
    let key = pki.key.serialize_pem();
    pki.write_key(key.replacen('M', "!", 1).as_bytes());
    let error = pki.error(&pki.key_file(), &["not valid base64"]);
    assert!(matches!(error, CertificateError::Malformed { .. }));
}

#[test]
fn a_collection_of_roots() {
    let pki = Pki::p256();
    let many = pki.root().repeat(CERTIFICATES_MAX + 1);
    pki.write_chain(&[&many]);
    let error = pki.error(&pki.certificate_file(), &["more than 16 certificates"]);
    assert!(matches!(
        error,
        CertificateError::TooManyCertificates { .. }
    ));
}

#[test]
fn something_else_in_a_certificate_s_armour() {
    let pki = Pki::p256();
    let fake = pki
        .key
        .serialize_pem()
        .replace("PRIVATE KEY", "CERTIFICATE");
    pki.write_chain(&[&pki.leaf, &fake]);
    let error = pki.error(&pki.certificate_file(), &["certificate 2 cannot be used"]);
    assert!(matches!(
        error,
        CertificateError::CertificateInvalid { position: 2, .. }
    ));
}

#[test]
fn files_without_exactly_one_key() {
    let pki = Pki::p256();
    pki.write_key(pki.leaf.as_bytes());
    let error = pki.error(&pki.key_file(), &["no private key", "only \"CERTIFICATE\""]);
    assert!(matches!(error, CertificateError::NoKey { .. }));
    let key = pki.key.serialize_pem();
    pki.write_key(key.repeat(2).as_bytes());
    let error = pki.error(&pki.key_file(), &["holds 2 private keys"]);
    assert!(matches!(
        error,
        CertificateError::SeveralKeys { count: 2, .. }
    ));
}

#[test]
fn encrypted_keys() {
    let pkcs8 = [
        "pkcs8",
        "-topk8",
        "-passout",
        "pass:secret",
        "-in",
        "IN",
        "-out",
        "OUT",
    ];
    let pki = Pki::p256();
    reencode(&pki, &pkcs8, "BEGIN ENCRYPTED PRIVATE KEY");
    let error = pki.error(&pki.key_file(), &["is encrypted", "openssl pkey -in"]);
    assert!(matches!(error, CertificateError::KeyEncrypted { .. }));

    let old = [
        "ec",
        "-aes128",
        "-passout",
        "pass:secret",
        "-in",
        "IN",
        "-out",
        "OUT",
    ];
    let pki = Pki::p256();
    reencode(&pki, &old, "Proc-Type: 4,ENCRYPTED");
    let error = pki.error(&pki.key_file(), &["is encrypted"]);
    assert!(matches!(error, CertificateError::KeyEncrypted { .. }));
}

#[test]
fn keys_of_unsupported_kinds() {
    let pki = Pki::p256();
    for arguments in [
        ["genpkey", "-algorithm", "x25519", "-out", "OUT"].as_slice(),
        &["genrsa", "-out", "OUT", "1024"],
    ] {
        let out = pki.directory.path().join("openssl.pem");
        openssl(arguments, &[Path::new(""), &out]);
        pki.write_key(&fs::read(&out).unwrap());
        let error = pki.error(&pki.key_file(), &["cannot be used", "RSA with 2048"]);
        assert!(matches!(error, CertificateError::KeyUnusable { .. }));
    }
}

#[test]
fn another_s_key() {
    let pki = Pki::p256();
    pki.write_key(new_key(&PKCS_ED25519).serialize_pem().as_bytes());
    let error = pki.error(&pki.key_file(), &["does not belong to the certificate"]);
    assert!(matches!(error, CertificateError::KeyMismatch { .. }));
}

#[test]
fn rfc8446_4_4_2_the_leaf_comes_first() {
    let pki = Pki::p256();
    pki.write_chain(&[&pki.root(), &pki.intermediate(), &pki.leaf]);
    let error = pki.error(
        &pki.certificate_file(),
        &["belongs to certificate 3", "in the order 3, 2, 1"],
    );
    assert!(matches!(
        error,
        CertificateError::LeafNotFirst { position: 3, .. }
    ));
}

#[test]
fn rfc5246_7_4_2_each_certificate_certifies_the_one_before() {
    let pki = Pki::p256();
    pki.write_chain(&[&pki.leaf, &pki.root(), &pki.intermediate()]);
    let error = pki.error(
        &pki.certificate_file(),
        &[
            "certificate 1 was issued by",
            "CN=Intermediate",
            "but certificate 2 is",
            "CN=Root",
            "in the order 1, 3, 2",
        ],
    );
    assert!(matches!(
        error,
        CertificateError::ChainBroken {
            position: 1,
            count: 3,
            ..
        }
    ));
}

#[test]
fn a_certificate_too_many_in_the_chain() {
    let pki = Pki::p256();
    pki.write_chain(&[&pki.leaf, &pki.leaf, &pki.intermediate()]);
    pki.error(&pki.certificate_file(), &["in the order 1, 3 and remove 2"]);
}

#[test]
fn an_issuer_missing_from_the_chain() {
    let pki = Pki::p256();
    pki.write_chain(&[&pki.leaf, &pki.root()]);
    pki.error(
        &pki.certificate_file(),
        &[
            "CN=Intermediate",
            "its issuer is not in the file",
            "remove 2",
        ],
    );
}

#[test]
fn an_issuer_with_the_right_name_and_the_wrong_key() {
    let pki = Pki::p256();
    let namesake = CertifiedIssuer::signed_by(
        ca_params("Intermediate"),
        new_key(&PKCS_ECDSA_P256_SHA256),
        &pki.root,
    )
    .unwrap();
    pki.write_chain(&[&pki.leaf, &namesake.as_ref().pem()]);
    let error = pki.error(&pki.certificate_file(), &["but not the key that signed it"]);
    let CertificateError::ChainBroken { broken, .. } = error else {
        panic!("{error:?}");
    };
    assert!(matches!(broken, BrokenLink::OtherKey { .. }), "{broken:?}");
}

#[test]
fn the_leaf_alone_is_a_chain() {
    let pki = Pki::p256();
    pki.write_chain(&[&pki.leaf]);
    assert_eq!(pki.load().unwrap().warnings, []);
}

#[test]
fn a_self_signed_leaf_is_no_needless_root() {
    let pki = Pki::p256();
    let leaf = leaf_params(&["example.org"]).self_signed(&pki.key).unwrap();
    pki.write_chain(&[&leaf.pem()]);
    assert_eq!(pki.load().unwrap().warnings, []);
}

#[test]
fn rfc5280_4_1_2_5_both_ends_of_the_validity_belong_to_it() {
    let pki = Pki::p256();
    let (begins, expires) = (now() - DAY * 10, now() + DAY * 80);
    let second = Duration::from_secs(1);
    assert!(pki.load_at("example.org", begins).is_ok());
    assert!(pki.load_at("example.org", expires).is_ok());
    let early = pki.load_at("example.org", begins - second).unwrap_err();
    let expected = ["valid from Tue, 05 Jan 2027 08:00:00 GMT", "clock"];
    assert_says(&early, early.file(), &pki.certificate_file(), &expected);
    assert!(matches!(early, CertificateError::NotYetValid { .. }));
    let late = pki.load_at("example.org", expires + second).unwrap_err();
    let expected = ["expired on Mon, 05 Apr 2027 08:00:00 GMT", "renew"];
    assert_says(&late, late.file(), &pki.certificate_file(), &expected);
    assert!(matches!(late, CertificateError::Expired { .. }));
}

#[test]
fn a_clock_out_of_any_range_is_told_and_not_a_panic() {
    let pki = Pki::p256();
    let before_1970 = SystemTime::UNIX_EPOCH - DAY;
    let text = pki
        .load_at("example.org", before_1970)
        .unwrap_err()
        .to_string();
    assert!(text.contains("it is now Thu, 01 Jan 1970"), "{text}");
    let year_12000 = SystemTime::UNIX_EPOCH + DAY * 366 * 10_030;
    assert!(pki.load_at("example.org", year_12000).is_err());
}

#[test]
fn rfc9525_6_3_a_wildcard_stands_for_exactly_one_label() {
    let names = ["example.org", "*.Example.org", "192.0.2.1", "2001:db8::1"];
    let pki = Pki::with_leaf(&PKCS_ECDSA_P256_SHA256, leaf_params(&names));
    for covered in [
        "example.org",
        "www.example.org",
        "*.example.org",
        "192.0.2.1",
        "2001:db8:0::1",
    ] {
        assert!(pki.load_as(covered).is_ok(), "{covered}");
    }
    for uncovered in [
        "a.b.example.org",
        ".example.org",
        "*.www.example.org",
        "example.com",
        "org",
        "wwwexample.org",
        "192.0.2.2",
        "2001:db8::2",
    ] {
        let error = pki.load_as(uncovered).unwrap_err();
        let CertificateError::NamesNotCovered { names, covered, .. } = &error else {
            panic!("{uncovered}: {error:?}");
        };
        assert_eq!(names, &[uncovered]);
        assert_eq!(covered.len(), 4);
    }
    let pki = Pki::with_leaf(&PKCS_ECDSA_P256_SHA256, leaf_params(&["*.example.org"]));
    pki.error(
        &pki.certificate_file(),
        &[
            "does not cover \"example.org\", only \"*.example.org\"",
            "exactly one label",
            "get a certificate for all names",
        ],
    );
}

#[test]
fn rfc9525_6_3_partial_wildcards_cover_nothing() {
    let pki = Pki::with_leaf(
        &PKCS_ECDSA_P256_SHA256,
        leaf_params(&["w*.example.org", "www.*.org", "*"]),
    );
    for name in ["www.example.org", "w.example.org", "localhost"] {
        assert!(pki.load_as(name).is_err(), "{name}");
    }
}

#[test]
fn rfc9525_the_common_name_does_not_count() {
    let mut params = leaf_params(&[]);
    params
        .distinguished_name
        .push(DnType::CommonName, "example.org");
    let pki = Pki::with_leaf(&PKCS_ECDSA_P256_SHA256, params);
    pki.error(&pki.certificate_file(), &["common name does not count"]);
}

#[test]
fn names_of_other_kinds_cover_nothing_and_cannot_upset_a_terminal() {
    let mut params = leaf_params(&["\u{1b}[31mred.example.org"]);
    let uri = "https://example.org".try_into().unwrap();
    params.subject_alt_names.push(SanType::URI(uri));
    let pki = Pki::with_leaf(&PKCS_ECDSA_P256_SHA256, params);
    let error = pki.error(&pki.certificate_file(), &["\\u{1b}[31mred.example.org"]);
    assert!(!error.to_string().contains('\u{1b}'));
}

#[test]
fn a_leaf_that_expires_within_fourteen_days() {
    let pki = Pki::p256();
    let expires = now() + DAY * 80;
    let at_the_limit = pki.load_at("example.org", expires - DAY * 14).unwrap();
    assert_eq!(at_the_limit.warnings, []);
    let soon = expires - DAY * 14 + Duration::from_secs(1);
    let soon = pki.load_at("example.org", soon).unwrap().warnings;
    let file = pki.certificate_file();
    assert_eq!(
        soon,
        [Warning::ExpiresSoon {
            file: file.clone(),
            expires
        }]
    );
    assert_says(
        &soon[0],
        soon[0].file(),
        &file,
        &["expires on Mon, 05 Apr 2027"],
    );
}

#[test]
fn an_issuer_that_has_expired() {
    let pki = Pki::p256();
    let mut params = ca_params("Intermediate");
    params.not_after = (now() - DAY).into();
    let key = new_key(&PKCS_ECDSA_P256_SHA256);
    let old = CertifiedIssuer::signed_by(params, key, &pki.root).unwrap();
    let leaf = leaf_params(&["example.org"])
        .signed_by(&pki.key, &old)
        .unwrap();
    pki.write_chain(&[&leaf.pem(), &old.as_ref().pem()]);
    let warning = pki.warning(&pki.certificate_file(), &["certificate 2 expired on"]);
    assert!(matches!(
        warning,
        Warning::IssuerExpired { position: 2, .. }
    ));
}

#[test]
fn a_needless_root() {
    let pki = Pki::p256();
    pki.write_chain(&[&pki.leaf, &pki.intermediate(), &pki.root()]);
    let warning = pki.warning(
        &pki.certificate_file(),
        &["certificate 3", "CN=Root", "remove it"],
    );
    assert!(matches!(warning, Warning::RootIncluded { position: 3, .. }));
}

#[test]
fn rfc4210_4_4_a_rollover_certificate_is_no_root() {
    let pki = Pki::p256();
    let rollover = ca_params("Root").signed_by(&new_key(&PKCS_ECDSA_P256_SHA256), &pki.root);
    let rollover_der = rollover.unwrap();
    let (_, parsed) = x509_parser::parse_x509_certificate(rollover_der.der()).unwrap();
    assert_eq!(parsed.subject().as_raw(), parsed.issuer().as_raw());
    let (_, root) = x509_parser::parse_x509_certificate(pki.root.as_ref().der()).unwrap();
    let chain = [parsed.clone(), parsed];
    let broken = chain::check(Path::new("chain"), &chain, now()).unwrap_err();
    assert!(matches!(broken, CertificateError::ChainBroken { .. }));
    let [rollover, _] = chain;
    let warnings = chain::check(Path::new("chain"), &[rollover, root], now()).unwrap();
    assert!(matches!(
        warnings.as_slice(),
        [Warning::RootIncluded { position: 2, .. }]
    ));
}

#[test]
fn a_signature_that_cannot_be_verified() {
    let pki = Pki::p256();
    let path = |name: &str| pki.directory.path().join(name);
    let request = path("leaf.csr");
    let csr = [
        "req",
        "-new",
        "-subj",
        "/CN=leaf",
        "-addext",
        "subjectAltName=DNS:example.org",
        "-key",
        "IN",
        "-out",
        "OUT",
    ];
    openssl(&csr, &[&pki.key_file(), &request]);
    let authority = path("sha1.pem");
    let authority_key = path("sha1.key");
    let root = [
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha1", "-subj", "/CN=Old", "-days",
        "36500", "-keyout", "OUT", "-out", "IN",
    ];
    openssl(&root, &[&authority, &authority_key]);
    let (authority_text, key_text) = (authority.to_str().unwrap(), authority_key.to_str().unwrap());
    let sign = [
        "x509",
        "-req",
        "-sha1",
        "-days",
        "36500",
        "-copy_extensions",
        "copy",
        "-CA",
        authority_text,
        "-CAkey",
        key_text,
        "-set_serial",
        "1",
        "-in",
        "IN",
        "-out",
        "OUT",
    ];
    let leaf = path("leaf.pem");
    openssl(&sign, &[&request, &leaf]);
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    pki.write_chain(&[&read(&leaf), &read(&authority)]);

    let today = SystemTime::now() + DAY;
    let warnings = pki.load_at("example.org", today).unwrap().warnings;
    let [
        Warning::SignatureNotVerifiable {
            position: 1,
            algorithm,
            ..
        },
        Warning::RootIncluded { .. },
    ] = warnings.as_slice()
    else {
        panic!("{warnings:?}");
    };
    assert_eq!(algorithm, "1.2.840.113549.1.1.5");
    let expected = ["signature of certificate 1", "SHA-256 or better"];
    assert_says(
        &warnings[0],
        warnings[0].file(),
        &pki.certificate_file(),
        &expected,
    );
}

#[test]
fn a_key_file_open_to_others() {
    let pki = Pki::p256();
    for mode in [0o640, 0o604, 0o620, 0o601] {
        fs::set_permissions(pki.key_file(), fs::Permissions::from_mode(mode)).unwrap();
        let warning = pki.warning(&pki.key_file(), &[&format!("mode {mode:04o}"), "chmod 600"]);
        assert_eq!(
            warning,
            Warning::KeyFileExposed {
                file: pki.key_file(),
                mode
            }
        );
    }
    fs::set_permissions(pki.key_file(), fs::Permissions::from_mode(0o400)).unwrap();
    assert_eq!(pki.load().unwrap().warnings, []);
}
