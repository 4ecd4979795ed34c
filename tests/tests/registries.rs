//! How `agent pull` reaches a registry: who it says it is, to whom it says so, and whom it trusts.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tests::support::http::{Client, Request, Server, answer};
use tests::support::layer::digest;
use tests::support::program::{self, LIMIT};
use tests::support::registry::{PASSWORD, USER};
use tests::support::token::REFRESH;
use tests::{
    Authority, Fault, Faults, Identity, Image, Layer, Node, Output, Proxy, Registry, RegistrySpec,
    TokenServer, TokenSpec,
};

/// Another address of the same machine, for servers that are not the registry.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A machine, and the storage of its registry with these repositories, each of one small image.
fn node_with(repositories: &[&str]) -> Node {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    for name in repositories {
        let layout = node.dir().join("layouts").join(name);
        Image::new().layer(Layer::new().file("name", name)).write(&layout);
        registry.push(&node.netns, &layout, name);
    }
    node
}

/// Configures one host as plain HTTP, with these lines more.
fn plain(node: &Node, host: &str, more: &str) {
    node.configure(&format!("[host.\"{host}\"]\nplain-http = true\n{more}\n"));
}

fn with_password(password: &str) -> String {
    format!("username = \"{USER}\"\npassword = \"{password}\"")
}

/// Writes docker's configuration for the machine's user.
fn docker_config(node: &Node, config: &Value) {
    fs::create_dir_all(node.dir().join(".docker")).expect("the folder is ours");
    fs::write(node.dir().join(".docker/config.json"), config.to_string()).expect("the folder is ours");
}

/// Runs `agent` where names mean what `hosts` says, in the form of hosts(5).
fn agent_where(node: &Node, hosts: &str, words: &[&str]) -> Output {
    let file = node.dir().join("hosts");
    fs::write(&file, hosts).expect("the folder is ours");
    let agent = node.command();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-ec", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(file);
    command.arg(agent.get_program()).args(words);
    node.environment(&mut command);
    program::run(&mut command, b"", LIMIT)
}

#[test]
fn a_token_is_asked_for_by_those_who_have_a_password_and_for_one_repository() {
    let node = node_with(&["private", "public/open", "forbidden/shut"]);
    let tokens = TokenServer::start(&node.netns, node.dir(), TokenSpec::default());
    let spec = RegistrySpec { tokens: Some(&tokens), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    let host = registry.host();
    let name = |repository: &str| format!("{host}/{repository}:latest");

    plain(&node, &host, "");
    node.pull(&name("public/open"));
    let asked = tokens.take_asked();
    assert!(asked.iter().all(|asked| asked.basic.is_none() && asked.refresh.is_none()), "{asked:?}");
    let line = node.agent(&["pull", &name("private")]).refused(1);
    assert!(line.contains("refused access") && line.contains("agent login"), "{line}");

    plain(&node, &host, &with_password("wrong-one"));
    let line = node.agent(&["pull", &name("private")]).refused(1);
    assert!(line.contains("does not accept") && !line.contains("wrong-one"), "{line}");

    plain(&node, &host, &with_password(PASSWORD));
    tokens.take_asked();
    node.pull(&name("private"));
    let asked = tokens.take_asked();
    let basic = Some(format!("{USER}:{PASSWORD}"));
    assert!(asked.iter().all(|asked| asked.basic == basic && asked.scopes == ["repository:private:pull"]));
    // One token serves the whole pull.
    assert_eq!(asked.len(), 1, "{asked:?}");
    let line = node.agent(&["pull", &name("forbidden/shut")]).refused(1);
    assert!(line.contains("refused access"), "{line}");
}

#[test]
fn an_identity_token_or_a_ready_token_stands_for_the_password() {
    let node = node_with(&["private"]);
    let tokens = TokenServer::start(&node.netns, node.dir(), TokenSpec::default());
    let spec = RegistrySpec { tokens: Some(&tokens), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    let (host, name) = (registry.host(), format!("{}/private:latest", registry.host()));
    plain(&node, &host, "");

    docker_config(&node, &json!({ "auths": { &host: { "identitytoken": REFRESH, "auth": "eDo=" } } }));
    node.pull(&name);
    let asked = tokens.take_asked();
    let by_token = |asked: &tests::support::token::Asked| {
        asked.method == "POST" && asked.refresh.as_deref() == Some(REFRESH) && asked.basic.is_none()
    };
    assert!(!asked.is_empty() && asked.iter().all(by_token), "{asked:?}");
    docker_config(&node, &json!({ "auths": { &host: { "identitytoken": "stale" } } }));
    let line = node.agent(&["pull", &name]).refused(1);
    assert!(line.contains("refused access") && !line.contains("stale"), "{line}");

    let address = format!("{}?service=x&scope=repository:private:pull", tokens.realm());
    let body = node.netns.shell(&format!("curl -sf -u {USER}:{PASSWORD} '{address}'"));
    let token: Value = serde_json::from_str(&body).expect("the token server answers with JSON");
    docker_config(&node, &json!({ "auths": { &host: { "registrytoken": token["token"] } } }));
    tokens.take_asked();
    node.pull(&name);
    assert_eq!(tokens.take_asked(), []);
}

/// It promises more than it keeps, so that the registry is the one who says no.
#[test]
fn a_token_that_expires_while_an_image_is_pulled_is_renewed() {
    outlives_its_token(3000);
}

/// It keeps what it promises, so that we know that it has expired.
#[test]
fn a_token_that_is_known_to_have_expired_is_renewed() {
    outlives_its_token(6);
}

fn outlives_its_token(promised: u64) {
    let node = Node::offline();
    let image = (0..4).fold(Image::new(), |image, at| image.layer(Layer::new().file("at", format!("{at}"))));
    let layout = node.dir().join("layout");
    let written = image.write(&layout);
    Registry::start(&node.netns, node.dir()).push(&node.netns, &layout, "private");
    let spec = TokenSpec { life: 2, promised: Some(promised), ..TokenSpec::default() };
    let tokens = TokenServer::start(&node.netns, node.dir(), spec);
    let spec = RegistrySpec { tokens: Some(&tokens), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    let faults = Faults::start(&node.netns, registry.port());
    let pause = std::time::Duration::from_millis(3000);
    faults.on(&written.layers[0], 1, Fault::Drip(1 << 20, pause));
    plain(&node, &faults.host(), &format!("max-parallel = 1\n{}", with_password(PASSWORD)));
    node.pull(&format!("{}/private:latest", faults.host()));
    assert!(tokens.take_asked().len() > 1);
}

#[test]
fn credentials_go_to_no_token_server_elsewhere() {
    let node = node_with(&["private", "public/open"]);
    let spec = TokenSpec { ip: ELSEWHERE, ..TokenSpec::default() };
    let tokens = TokenServer::start(&node.netns, node.dir(), spec);
    let spec = RegistrySpec { tokens: Some(&tokens), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    let host = registry.host();
    let (private, open) = (format!("{host}/private:latest"), format!("{host}/public/open:latest"));
    let nobody = || {
        let asked = tokens.take_asked();
        assert!(!asked.is_empty());
        assert!(asked.iter().all(|asked| asked.basic.is_none() && asked.refresh.is_none()), "{asked:?}");
    };

    plain(&node, &host, &with_password(PASSWORD));
    let line = node.agent(&["pull", &private]).refused(1);
    assert!(line.contains("127.0.0.2") && line.contains("token-hosts"), "{line}");
    nobody();
    // What is open to everyone is pulled as anyone.
    node.pull(&open);
    nobody();
    plain(&node, &host, "");
    docker_config(&node, &json!({ "auths": { &host: { "identitytoken": REFRESH } } }));
    node.agent(&["pull", &private]).refused(1);
    nobody();

    for named in ["127.0.0.2".to_owned(), format!("127.0.0.2:{}", tokens.port())] {
        let trusted = format!("token-hosts = [\"{named}\"]\n{}", with_password(PASSWORD));
        plain(&node, &host, &trusted);
        node.pull(&private);
        assert!(tokens.take_asked().iter().all(|asked| asked.basic.is_some()), "{named}");
    }
    plain(&node, &host, &format!("token-hosts = [\"127.0.0.3\"]\n{}", with_password(PASSWORD)));
    node.agent(&["pull", &private]).refused(1);
    nobody();
}

#[test]
fn credentials_go_to_a_token_server_of_the_same_domain() {
    let node = node_with(&["private"]);
    let tokens = TokenServer::start(&node.netns, node.dir(), TokenSpec::default());
    for (registry, realm, trusted) in [
        ("registry.example.test", "auth.example.test", true),
        ("registry.example.test", "example.test", true),
        ("registry.example.test", "auth.elsewhere.test", false),
        ("registry.test", "auth.test", false),
        ("registry.example.test", "example.test.elsewhere.test", false),
        ("registry.example.test", "notexample.test", false),
    ] {
        let spec = RegistrySpec {
            tokens: Some(&tokens),
            realm: Some(format!("http://{realm}:{}/token", tokens.port())),
            ..RegistrySpec::default()
        };
        let running = Registry::start_as(&node.netns, node.dir(), &spec);
        let host = format!("{registry}:{}", running.port());
        plain(&node, &host, &with_password(PASSWORD));
        let hosts = format!("127.0.0.1 {registry} {realm}\n");
        let output = agent_where(&node, &hosts, &["pull", "-q", &format!("{host}/private")]);
        assert_eq!(output.code == 0, trusted, "{registry}, {realm}: {}", output.stderr);
        let asked = tokens.take_asked();
        assert!(!asked.is_empty(), "{registry}, {realm}: {}", output.stderr);
        assert!(asked.iter().all(|asked| asked.basic.is_some() == trusted), "{registry}, {realm}");
    }
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_server() {
    let node = node_with(&["private"]);
    let registry = Registry::start_as(
        &node.netns,
        node.dir(),
        &RegistrySpec { passwords: true, ..RegistrySpec::default() },
    );
    let open = Registry::start(&node.netns, node.dir());
    let faults = Faults::start(&node.netns, registry.port());
    plain(&node, &faults.host(), &with_password(PASSWORD));
    let name = format!("{}/private:latest", faults.host());
    for other in [
        Faults::start_as(&node.netns, ELSEWHERE, open.port(), None),
        // Another port is another server too.
        Faults::start(&node.netns, open.port()),
    ] {
        let to = format!("http://{}/v2/private/blobs/", other.host());
        let blobs = blobs_of(&node, "private");
        for blob in &blobs {
            let place = vec![("location", format!("{to}{blob}"))];
            faults.on(format!("/blobs/{blob}"), usize::MAX, Fault::Answer(307, place));
        }
        node.pull(&name);
        let seen = other.take_seen("/blobs/");
        assert!(seen.len() >= blobs.len(), "{seen:?}");
        assert!(seen.iter().all(|seen| seen.authorization.is_none() && seen.status == 200), "{seen:?}");
        assert!(faults.take_seen("/manifests/").iter().any(|seen| seen.authorization.is_some()));
        let _ = node.agent(&["rmi", &name]).ok();
        faults.behave();
    }
    // Within the registry they do.
    let there = vec![("location", "/v2/private/manifests/latest".to_owned())];
    faults.on("/manifests/alias", usize::MAX, Fault::Answer(307, there));
    node.pull(&format!("{}/private:alias", faults.host()));
    // And nobody is followed round and round.
    let again = vec![("location", "/v2/private/manifests/round".to_owned())];
    faults.on("/manifests/round", usize::MAX, Fault::Answer(307, again));
    let line = node.agent(&["pull", &format!("{}/private:round", faults.host())]).refused(1);
    assert!(line.contains("redirect"), "{line}");
}

/// The digests of configuration and layer in the layout of a repository.
fn blobs_of(node: &Node, name: &str) -> Vec<String> {
    let layout = node.dir().join("layouts").join(name);
    let read = |path: PathBuf| -> Value {
        serde_json::from_slice(&fs::read(path).expect("it was written")).expect("it is JSON")
    };
    let manifest = &read(layout.join("index.json"))["manifests"][0]["digest"];
    let manifest = read(layout.join("blobs/sha256").join(&manifest.as_str().expect("a digest")[7..]));
    [&manifest["config"], &manifest["layers"][0]]
        .map(|descriptor| descriptor["digest"].as_str().expect("a digest").to_owned())
        .to_vec()
}

#[test]
fn tls_is_never_left() {
    let node = node_with(&["private", "public/open"]);
    let authority = Authority::new(&node.dir().join("ca"));
    let identity = authority.server("server", &["127.0.0.1"]);
    let open = Registry::start(&node.netns, node.dir());
    let plain_site = Faults::start_as(&node.netns, ELSEWHERE, open.port(), None);
    let secure = Faults::start_as(&node.netns, Ipv4Addr::LOCALHOST, open.port(), Some(&identity));
    let trust = |host: &str| {
        let ca = authority.certificate();
        let text =
            format!("[host.\"{host}\"]\nca-file = \"{}\"\n{}\n", ca.display(), with_password(PASSWORD));
        node.configure(&text);
    };
    trust(&secure.host());
    let name = format!("{}/private:latest", secure.host());
    let place = format!("http://{}/v2/private/manifests/latest", plain_site.host());
    secure.on("/manifests/", 1, Fault::Answer(307, vec![("location", place)]));
    let line = node.agent(&["pull", &name]).refused(1);
    assert!(line.contains("http://127.0.0.2"), "{line}");
    assert_eq!(plain_site.take_seen(""), []);
    node.pull(&name);

    // Nor for a token, although this one is of the registry's own host.
    let tokens = TokenServer::start(&node.netns, node.dir(), TokenSpec::default());
    let spec = RegistrySpec { tokens: Some(&tokens), identity: Some(&identity), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    trust(&registry.host());
    for repository in ["private", "public/open"] {
        let line = node.agent(&["pull", &format!("{}/{repository}", registry.host())]).refused(1);
        assert!(line.contains("http://127.0.0.1"), "{line}");
    }
    assert_eq!(tokens.take_asked(), []);
}

#[test]
fn mirrors_are_asked_in_turn_and_the_reason_of_each_is_told() {
    let node = node_with(&["team/app"]);
    let registry = Registry::start(&node.netns, node.dir());
    let closed = Registry::start_as(
        &node.netns,
        &node.dir().join("closed"),
        &RegistrySpec { passwords: true, ..RegistrySpec::default() },
    );
    let broken = Faults::start(&node.netns, registry.port());
    broken.on("/manifests/", usize::MAX, Fault::Answer(500, Vec::new()));
    let (down, closed, broken, good) = ("127.0.0.1:1", closed.host(), broken.host(), registry.host());
    let configure = |last: &str| {
        let mut text = format!(
            "[host.\"registry.test\"]\nmirrors = [\"{down}\", \"{closed}\", \"{broken}\", \"{good}{last}\"]\n"
        );
        for host in [down, &closed, &broken, &good] {
            text += &format!("[host.\"{host}\"]\nplain-http = true\nretries = 1\n");
        }
        node.configure(&text);
    };
    configure("/elsewhere");
    let line = node.agent(&["pull", "registry.test/app"]).refused(1);
    let places: Vec<Option<usize>> = [
        format!("cannot reach registry {down}: connection refused"),
        format!("registry {closed} refused access"),
        format!("registry {broken} failed: it answered 500"),
        format!("registry {good} has no such image"),
        "cannot reach registry registry.test".to_owned(),
    ]
    .iter()
    .map(|reason| line.find(reason))
    .collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}: {line}");
    configure("/team");
    node.pull("registry.test/app:latest");
}

#[test]
fn a_registry_is_shown_the_certificate_that_is_configured_for_it() {
    let node = node_with(&["private"]);
    let authority = Authority::new(&node.dir().join("ca"));
    let identity = authority.server("server", &["127.0.0.1"]);
    let (ours, others) =
        (authority.client("client"), Authority::new(&node.dir().join("other")).client("client"));
    let spec =
        RegistrySpec { identity: Some(&identity), clients: Some(&authority), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    let name = format!("{}/private:latest", registry.host());
    let configure = |client: Option<(&Path, &Path)>| {
        let ca = authority.certificate();
        let mut text = format!("[host.\"{}\"]\nca-file = \"{}\"\n", registry.host(), ca.display());
        if let Some((certificate, key)) = client {
            text +=
                &format!("client-cert = \"{}\"\nclient-key = \"{}\"\n", certificate.display(), key.display());
        }
        node.configure(&text);
    };
    let show = |identity: &Identity| configure(Some((&identity.certificate, &identity.key)));
    configure(None);
    let line = node.agent(&["pull", &name]).refused(1);
    assert!(line.contains("ertificate"), "{line}");
    show(&others);
    node.agent(&["pull", &name]).refused(1);
    configure(Some((&ours.certificate, &others.certificate)));
    let line = node.agent(&["pull", &name]).refused(1);
    assert!(line.contains("client.pem"), "{line}");
    configure(Some((&node.dir().join("nothing"), &ours.key)));
    let line = node.agent(&["pull", &name]).refused(1);
    assert!(line.contains("nothing"), "{line}");
    show(&ours);
    node.pull(&name);
}

#[test]
fn a_client_certificate_is_shown_to_nobody_else() {
    let node = node_with(&["private"]);
    let authority = Authority::new(&node.dir().join("ca"));
    let identity = authority.server("server", &["127.0.0.1", "127.0.0.2"]);
    let client = authority.client("client");
    let open = Registry::start(&node.netns, node.dir());
    let registry = Faults::start_as(&node.netns, Ipv4Addr::LOCALHOST, open.port(), Some(&identity));
    // It wants a certificate, and would take ours.
    let spec =
        RegistrySpec { identity: Some(&identity), clients: Some(&authority), ..RegistrySpec::default() };
    let other = Registry::start_as(&node.netns, node.dir(), &spec);
    let place = format!("https://{}/v2/private/manifests/latest", other.host());
    registry.on("/manifests/", 1, Fault::Answer(307, vec![("location", place)]));
    node.configure(&format!(
        "[host.\"{}\"]\nca-file = \"{}\"\nclient-cert = \"{}\"\nclient-key = \"{}\"\nretries = 0\n",
        registry.host(),
        authority.certificate().display(),
        client.certificate.display(),
        client.key.display()
    ));
    node.agent(&["pull", &format!("{}/private", registry.host())]).refused(1);
    node.pull(&format!("{}/private:latest", registry.host()));
}

#[test]
fn proxies_come_from_the_environment() {
    let node = node_with(&["private"]);
    let authority = Authority::new(&node.dir().join("ca"));
    let identity = authority.server("server", &["secure.far.test"]);
    let open = Registry::start(&node.netns, node.dir());
    let spec = RegistrySpec { identity: Some(&identity), ..RegistrySpec::default() };
    let secure = Registry::start_as(&node.netns, node.dir(), &spec);
    let (http, https) = (Proxy::start(&node.netns, open.port()), Proxy::start(&node.netns, secure.port()));
    node.configure(&format!(
        "[host.\"open.far.test\"]\nplain-http = true\n[host.\"{}\"]\nplain-http = true\n\
         [host.\"secure.far.test\"]\nca-file = \"{}\"\n",
        open.host(),
        authority.certificate().display()
    ));
    let pull = |name: &str, variables: &[(&str, &str)]| {
        let mut command = node.command();
        command.args(["pull", "-q", name]).envs(variables.iter().copied());
        program::run(&mut command, b"", LIMIT)
    };
    let (to_http, to_https) = (http.url(), https.url());
    let both = [("HTTP_PROXY", &*to_http), ("HTTPS_PROXY", &*to_https)];

    // The names mean nothing but to the proxies.
    pull("open.far.test/private:latest", &both).ok();
    let asked = http.take_asked();
    assert!(!asked.is_empty() && asked.iter().all(|asked| asked == "GET http://open.far.test"), "{asked:?}");
    pull("secure.far.test/private:latest", &both).ok();
    let asked = https.take_asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|asked| asked == "CONNECT secure.far.test:443"),
        "{asked:?}"
    );
    assert_eq!(http.take_asked(), Vec::<String>::new());

    let line = pull("open.far.test/private:latest", &[]).refused(1);
    assert!(line.contains("cannot reach"), "{line}");
    pull("open.far.test/private:latest", &[both[0], ("NO_PROXY", ".far.test")]).refused(1);
    // What is near needs none, where that is said.
    let near = format!("{}/private:latest", open.host());
    pull(&near, &[both[0], ("NO_PROXY", "127.0.0.1")]).ok();
    assert_eq!(http.take_asked(), Vec::<String>::new());
}

#[test]
fn an_index_is_read_by_platform_and_variant() {
    let node = Node::offline();
    let registry = Registry::start(&node.netns, node.dir());
    let platforms = [("amd64", None), ("arm", Some("v6")), ("arm", Some("v7")), ("arm64", Some("v8"))];
    let images = platforms.map(|(architecture, variant)| {
        let layer = Layer::new().file("for", format!("{architecture} {variant:?}"));
        Image::new().platform(architecture, variant).layer(layer)
    });
    let layout = node.dir().join("layout");
    Image::write_index(&images, &layout);
    registry.push(&node.netns, &layout, "many");
    plain(&node, &registry.host(), "");
    let name = format!("{}/many:latest", registry.host());
    for (wanted, architecture, variant) in [
        ("linux/amd64", "amd64", ""),
        ("linux/arm/v6", "arm", "v6"),
        ("linux/arm/v7", "arm", "v7"),
        ("linux/arm", "arm", "v7"),
        ("linux/arm64", "arm64", "v8"),
    ] {
        assert_eq!(node.agent(&["pull", "-q", "--platform", wanted, &name]).ok(), name);
        let told = node.inspect(&name);
        assert_eq!(told["Architecture"], architecture, "{wanted}: {told}");
        assert_eq!(told["Variant"].as_str().unwrap_or_default(), variant, "{wanted}: {told}");
    }
    let line = node.agent(&["pull", "--platform", "linux/arm/v5", &name]).refused(1);
    assert!(line.contains("linux/arm/v5") && line.contains("linux/arm/v6"), "{line}");
    let line = node.agent(&["pull", "--platform", "linux/s390x", &name]).refused(1);
    assert!(line.contains("linux/s390x"), "{line}");
}

/// A registry that serves these documents and blobs, whatever they are: by path, with a media type.
fn site(node: &Node, content: Vec<(String, &'static str, Vec<u8>)>) -> Server {
    let serve = move |request: Request, client: &mut Client| {
        let found = content.iter().find(|(path, ..)| path == request.path());
        let head = request.method == "HEAD";
        match found {
            Some((_, media_type, body)) if !head => {
                answer(client.get_mut(), 200, &[("content-type", media_type)], body)?;
            }
            _ => answer(client.get_mut(), if found.is_some() { 200 } else { 404 }, &[], b"")?,
        }
        Ok(true)
    };
    Server::start(&node.netns, Ipv4Addr::LOCALHOST, None, serve)
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[test]
fn sha512_is_as_good_as_sha256() {
    let node = Node::offline();
    let sha512 =
        |bytes: &[u8]| format!("sha512:{}", hex::encode(<sha2::Sha512 as sha2::Digest>::digest(bytes)));
    let layer = Layer::new().file("x", "y");
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [sha512(&layer.archive())] },
    });
    let (config, layer) = (config.to_string().into_bytes(), layer.compressed());
    let descriptor = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "digest": sha512(bytes), "size": bytes.len() });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut wrong = layer.clone();
    *wrong.last_mut().expect("it is not empty") ^= 1;
    let pinned = sha512(&manifest);
    let serve = |layer: Vec<u8>, name: &str| {
        let blob = |bytes: &[u8]| format!("/v2/app/blobs/{}", sha512(bytes));
        let octets = "application/octet-stream";
        let digest = format!("/v2/app/blobs/{name}");
        let content = vec![
            (format!("/v2/app/manifests/{pinned}"), MANIFEST, manifest.clone()),
            (blob(&config), octets, config.clone()),
            (digest, octets, layer),
        ];
        site(&node, content)
    };
    let name = sha512(&layer);
    let liar = serve(wrong, &name);
    plain(&node, &liar.host(), "retries = 0");
    let line = node.agent(&["pull", "-q", &format!("{}/app@{pinned}", liar.host())]).refused(1);
    assert!(line.contains("sha512:"), "{line}");
    let honest = serve(layer.clone(), &name);
    plain(&node, &honest.host(), "");
    node.pull(&format!("{}/app@{pinned}", honest.host()));
}

#[test]
fn documents_that_cannot_be_believed_are_refused() {
    let node = Node::offline();
    let index = "application/vnd.oci.image.index.v1+json";
    let empty = digest(b"");
    let both = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": empty, "size": 0 },
        "layers": [],
        "manifests": [],
    });
    let both = both.to_string().into_bytes();
    let endless = vec![b' '; 5 << 20];
    let pinned = format!("/v2/app/manifests/{}", digest(b"promised"));
    let content = vec![
        ("/v2/app/manifests/both".to_owned(), MANIFEST, both.clone()),
        ("/v2/app/manifests/both-as-index".to_owned(), index, both.clone()),
        ("/v2/app/manifests/endless".to_owned(), MANIFEST, endless),
        ("/v2/app/manifests/text".to_owned(), "text/html", b"<html>log in</html>".to_vec()),
        (pinned, MANIFEST, both),
    ];
    let server = site(&node, content);
    plain(&node, &server.host(), "retries = 0");
    let promised = format!("@{}", digest(b"promised"));
    for (name, word) in [
        (":both", "both"),
        (":both-as-index", "both"),
        (":endless", "longer than"),
        (":text", "refused"),
        (&*promised, "promised"),
    ] {
        let line = node.agent(&["pull", &format!("{}/app{name}", server.host())]).refused(1);
        assert!(line.contains(word), "{name}: {line}");
    }
    assert_eq!(node.agent(&["images", "-q"]).ok(), "");
}
