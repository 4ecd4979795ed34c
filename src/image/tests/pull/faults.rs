//! Registries that are down, closed or lying: one clear line, and nothing of it in the store.

use super::*;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

fn one_layer(registry: &Registry, name: &str) -> Layout {
    let data: Vec<u8> =
        (0..400_000_u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = Layer::new().file("x", 0o644, &data).end();
    let layout = Layout::new(&[(&layer, Packing::Gzip)], name);
    registry.push(layout.path(), "t", name, &[]);
    layout
}

fn line(error: &ImageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    assert!(!text.contains('\n'), "{text}");
    text
}

#[test]
fn a_registry_that_is_down_is_named_with_the_reason() {
    own_network();
    let node = Node::new();
    let error = node.pull(&format!("{HOST}/app:1")).expect_err("nobody listens");
    assert!(error.is_unreachable());
    let text = line(&error);
    assert!(text.contains("cannot reach registry 127.0.0.1:5000: connection refused"), "{text}");
    assert_eq!(node.names("images"), Vec::<String>::new());
}

#[test]
fn mirrors_are_asked_in_order_and_each_failure_is_told() {
    own_network();
    let registry = Registry::start(false);
    one_layer(&registry, "hub/kube-easy/app");
    let node = Node::new();
    let hosts =
        format!("[host.\"{HOST}\"]\nplain-http = true\n[host.\"127.0.0.1:5001\"]\nplain-http = true\n");
    let mirrors = |mirrors: &str| {
        node.configure(&format!("{hosts}[host.\"registry.example.invalid\"]\nmirrors = [{mirrors}]\n"));
    };
    mirrors(&format!("\"127.0.0.1:5001\", \"{HOST}/hub\""));
    let image = node.pull("registry.example.invalid/kube-easy/app").expect("the second mirror has it");
    assert_eq!(image.references, ["registry.example.invalid/kube-easy/app:latest"]);
    mirrors(&format!("\"127.0.0.1:5001\", \"{HOST}\""));
    let error = node.pull("registry.example.invalid/kube-easy/app").expect_err("no endpoint has it");
    let text = line(&error);
    for part in [
        "cannot reach registry 127.0.0.1:5001: connection refused",
        "registry 127.0.0.1:5000 has no such image",
        "cannot reach registry registry.example.invalid",
    ] {
        assert!(text.contains(part), "{text}");
    }
    node.configure("[host.\"h.x\"]\nmirors = []\n");
    let text = line(&node.pull("h.x/app").expect_err("a wrong key"));
    assert!(text.contains("test.toml") && text.contains("mirors"), "{text}");
}

#[test]
fn a_mirror_that_gives_something_else_is_passed_over() {
    fn page(_: &str) -> Vec<u8> {
        b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n<html>Sign in.".to_vec()
    }
    own_network();
    let registry = Registry::start(false);
    let layout = one_layer(&registry, "kube-easy/app");
    let portal = lying_registry(page);
    let mirror = Registry::start_at("127.0.0.1:5002");
    run(Command::new("skopeo").args(["copy", "-q", "--insecure-policy", "--dest-tls-verify=false"]).args([
        format!("oci:{}:t", layout.path().display()),
        "docker://127.0.0.1:5002/kube-easy/app".to_owned(),
    ]));
    let served = mirror.blob(&layout.layers[0]);
    let mut bytes = fs::read(&served).expect("the blob");
    bytes[100] ^= 1;
    fs::write(&served, bytes).expect("tampered");
    let node = Node::new();
    let plain: String = [&portal.to_string(), "127.0.0.1:5002", HOST]
        .iter()
        .map(|host| format!("[host.\"{host}\"]\nplain-http = true\n"))
        .collect();
    node.configure(&format!(
        "{plain}[host.\"registry.example.invalid\"]\nmirrors = [\"{portal}\", \"127.0.0.1:5002\", \"{HOST}\"]\n"
    ));
    node.pull("registry.example.invalid/kube-easy/app").expect("the last mirror has it whole");
}

#[test]
fn an_unknown_image_is_not_found() {
    own_network();
    let registry = Registry::start(false);
    one_layer(&registry, "known");
    let node = Node::new();
    for name in ["unknown", "known:2"] {
        let error = node.pull(&format!("{HOST}/{name}")).expect_err("unknown");
        assert!(error.is_not_found(), "{}", line(&error));
        assert!(line(&error).contains("has no such image"), "{}", line(&error));
    }
}

#[test]
fn credentials_are_asked_for_and_used() {
    own_network();
    let registry = Registry::start(true);
    one_layer(&registry, "closed");
    let node = Node::new();
    let name = format!("{HOST}/closed");
    let error = node.pull(&name).expect_err("no credentials");
    assert!(error.is_unauthorized() && line(&error).contains(HOST), "{}", line(&error));
    let with = |password: &str| {
        node.configure(&format!(
            "[host.\"{HOST}\"]\nplain-http = true\nusername = \"user\"\npassword = \"{password}\"\n"
        ));
    };
    with("wrong");
    let error = node.pull(&name).expect_err("wrong password");
    assert!(error.is_unauthorized() && !line(&error).contains("wrong"), "{}", line(&error));
    with("secret");
    node.pull(&name).expect("pulled");
}

/// Docker's configuration is found by a variable, which only a process of its own can be given.
#[test]
fn credentials_come_from_dockers_configuration_too() {
    const INNER: &str = "IMAGE_TEST_DOCKER_CONFIG_NODE";
    if std::env::var_os(INNER).is_some() {
        let node = Node::new();
        node.pull(&format!("{HOST}/closed")).expect("pulled");
        return;
    }
    own_network();
    let registry = Registry::start(true);
    one_layer(&registry, "closed");
    let docker = tempfile::tempdir().expect("a folder");
    let auths = serde_json::json!({"auths": {HOST: {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::write(docker.path().join("config.json"), auths.to_string()).expect("written");
    run(Command::new(std::env::current_exe().expect("ourselves"))
        .args(["--exact", "faults::credentials_come_from_dockers_configuration_too"])
        .env(INNER, "1")
        .env("DOCKER_CONFIG", docker.path()));
}

#[test]
fn a_registry_is_trusted_by_the_authority_that_is_configured_for_it() {
    own_network();
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("ca.pem"), folder.path().join("key.pem"));
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate));
    let registry = Registry::start_with(false, Some((&certificate, &key)));
    one_layer(&registry, "secure");
    let node = Node::new();
    let name = format!("{HOST}/secure");
    node.configure("");
    let error = node.pull(&name).expect_err("nobody trusts it");
    assert!(error.is_unreachable() && line(&error).contains("certificate"), "{}", line(&error));
    node.configure(&format!("[host.\"{HOST}\"]\nca-file = \"{}\"\n", certificate.display()));
    node.pull(&name).expect("pulled");
    node.configure(&format!("[host.\"{HOST}\"]\nca-file = \"{}\"\n", key.display()));
    let text = line(&node.pull(&name).expect_err("no certificate in it"));
    assert!(text.contains("key.pem"), "{text}");
}

#[test]
fn tls_to_a_plain_registry_says_how_to_mend_it() {
    own_network();
    let registry = Registry::start(false);
    one_layer(&registry, "plain");
    let node = Node::new();
    node.configure("");
    let text = line(&node.pull(&format!("{HOST}/plain")).expect_err("it speaks no TLS"));
    assert!(text.contains("plain-http = true"), "{text}");
}

#[test]
fn tampered_content_is_refused_and_nothing_of_it_stays() {
    own_network();
    let registry = Registry::start(false);
    let layout = one_layer(&registry, "tampered");
    let node = Node::new();
    let name = format!("{HOST}/tampered");
    let path = registry.blob(&layout.layers[0]);
    let good = fs::read(&path).expect("the blob");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x40;
    let mut at_end = good.clone();
    *at_end.last_mut().expect("some") ^= 1;
    let longer = [&good[..], b"more"].concat();
    for (what, bytes, words) in [
        ("flipped", &flipped[..], ["has digest", "promised"]),
        ("flipped at its end", &at_end, ["has digest", "promised"]),
        ("short", &good[..good.len() / 2], ["bytes came", "promised"]),
        ("longer", &longer, ["bytes came", "promised"]),
    ] {
        fs::write(&path, bytes).expect("tampered");
        let error = node.pull(&name).expect_err(what);
        let text = line(&error);
        assert!(error.is_refused() && words.iter().all(|word| text.contains(word)), "{what}: {text}");
        assert!(text.contains(&layout.layers[0]), "{what}: {text}");
        node.assert_empty();
    }
    fs::write(&path, &good).expect("mended");
    node.pull(&name).expect("pulled");

    let config = registry.blob(layout.config_digest());
    let text = fs::read_to_string(&config).expect("the blob");
    fs::write(&config, text.replace("\"app\"", "\"bad\"")).expect("tampered");
    let other = Node::new();
    let error = other.pull(&name).expect_err("another configuration");
    assert!(line(&error).contains("configuration"), "{}", line(&error));
}

#[test]
fn a_wrong_diff_id_is_refused_and_nothing_of_it_stays() {
    own_network();
    let registry = Registry::start(false);
    let layer = Layer::new().file("x", 0o644, b"x").end();
    let other = Layer::new().file("x", 0o644, b"y").end();
    let honest = Layout::new(&[(&layer, Packing::Gzip)], "honest");
    let liar = Layout::lying(&honest, &Digest::of(&other).to_string());
    registry.push(liar.path(), "t", "liar", &["--preserve-digests"]);
    let node = Node::new();
    let error = node.pull(&format!("{HOST}/liar")).expect_err("a wrong diffID");
    assert!(line(&error).contains("(uncompressed)"), "{}", line(&error));
    node.assert_empty();
}

#[test]
fn hostile_layers_are_refused_and_nothing_of_them_stays() {
    own_network();
    let registry = Registry::start(false);
    let good = Layer::new().file("good", 0o644, b"x").end();
    let bomb = vec![0_u8; 8 << 20];
    for (name, layer, word) in [
        ("hardlink", Layer::new().hardlink("x", "/etc/passwd").end(), "does not exist"),
        ("whiteout", Layer::new().whiteout("d/.wh...").end(), "from within"),
        ("bomb", Layer::new().file("x", 0o644, &bomb).end(), "limit"),
        ("no-tar", b"this is no archive at all".repeat(100), "damaged"),
    ] {
        let layout = Layout::new(&[(&good, Packing::Gzip), (&layer, Packing::Gzip)], name);
        registry.push(layout.path(), "t", name, &[]);
        let node = Node::new();
        let limits = image::unpack::Limits { ratio_from: 1 << 20, ratio: 50, ..Default::default() };
        let options = PullOptions { limits, ..PullOptions::default() };
        let error = node.pull_with(&format!("{HOST}/{name}"), &options, &Silent).expect_err(name);
        let text = line(&error);
        assert!(
            error.is_refused() && text.contains(word) && text.contains(&layout.layers[1]),
            "{name}: {text}"
        );
        node.assert_empty();
    }
}

/// Answers every request with what `answer` makes of its path; no real registry would.
fn lying_registry(answer: fn(&str) -> Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0_u8; 4096];
            let Ok(bytes) = stream.read(&mut request) else { continue };
            let text = String::from_utf8_lossy(&request[..bytes]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or("/");
            // The other side may have seen enough.
            drop(stream.write_all(&answer(path)));
        }
    });
    address
}

#[test]
fn manifests_that_lie_are_refused() {
    own_network();
    fn endless(_: &str) -> Vec<u8> {
        let mut answer =
            b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\nConnection: close\r\n\r\n".to_vec();
        answer.resize(8 << 20, b' ');
        answer
    }
    fn both(_: &str) -> Vec<u8> {
        let body = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[],"manifests":[]}"#;
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
            .into_bytes()
    }
    fn failing(_: &str) -> Vec<u8> {
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
    }
    for (answer, word, name) in [
        (endless as fn(&str) -> Vec<u8>, "longer than 4194304 bytes", "app:1"),
        (both, "both as an index and as a manifest", "app:1"),
        (failing, "503", "app:1"),
        (both, "has digest", "app@sha256:0000000000000000000000000000000000000000000000000000000000000000"),
    ] {
        let address = lying_registry(answer);
        let node = Node::new();
        node.configure(&format!("[host.\"{address}\"]\nplain-http = true\n"));
        let text = line(&node.pull(&format!("{address}/{name}")).expect_err("a lie"));
        assert!(text.contains(word), "{text}");
        assert_eq!(node.names("images"), Vec::<String>::new());
    }
}
