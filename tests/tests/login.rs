//! `agent login` and `agent logout`: what is verified, where it is kept, and who else understands it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tests::support::program::{self, LIMIT, tool};
use tests::support::registry::{PASSWORD, USER};
use tests::support::terminal::Terminal;
use tests::support::token::REFRESH;
use tests::{Image, Layer, Node, Registry, RegistrySpec, TokenServer, TokenSpec};

/// A machine whose registry asks for the password, and holds `private`.
fn private() -> (Node, Registry) {
    let node = Node::offline();
    fill(&node);
    let registry = Registry::start_private(&node.netns, node.dir());
    allow_plain(&node, &registry.host());
    (node, registry)
}

fn fill(node: &Node) {
    let layout = node.dir().join("layout");
    Image::new().layer(Layer::new().file("x", "y")).write(&layout);
    Registry::start(&node.netns, node.dir()).push(&node.netns, &layout, "private");
}

fn allow_plain(node: &Node, host: &str) {
    node.configure(&format!("[host.\"{host}\"]\nplain-http = true\n"));
}

fn config_file(node: &Node) -> PathBuf {
    node.dir().join(".docker/config.json")
}

fn config(node: &Node) -> Value {
    let text = fs::read_to_string(config_file(node)).expect("there is a config.json");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_password_is_verified_kept_used_and_forgotten() {
    let (node, registry) = private();
    let host = registry.host();
    let name = format!("{host}/private:latest");
    let login = ["login", "-u", USER, "--password-stdin", &host];

    let line = node.agent_fed(&login, "wrong-one\n").refused(1);
    assert!(
        line.contains(&host) && line.contains("does not accept") && !line.contains("wrong-one"),
        "{line}"
    );
    assert!(!config_file(&node).exists());

    fs::create_dir(node.dir().join(".docker")).expect("the folder is ours");
    fs::write(config_file(&node), "{\"HttpHeaders\": {\"X\": \"y\"}}").expect("the folder is ours");
    let output = node.agent_fed(&login, &format!("{PASSWORD}\n"));
    assert!(output.stderr.contains("unencrypted") && !output.stderr.contains(PASSWORD), "{output:?}");
    assert_eq!(output.ok(), "Login Succeeded");
    // base64 of reader:secret
    assert_eq!(
        config(&node),
        json!({ "HttpHeaders": { "X": "y" }, "auths": { &host: { "auth": "cmVhZGVyOnNlY3JldA==" } } })
    );
    assert_eq!(fs::metadata(config_file(&node)).expect("it is there").mode() & 0o777, 0o600);
    node.pull(&name);
    // Skopeo takes it as its own.
    let mut skopeo = node.netns.command("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--authfile"]).arg(config_file(&node));
    program::run(skopeo.arg(format!("docker://{name}")), b"", LIMIT).ok();

    // Who is logged in need not say it again.
    assert_eq!(node.agent(&["login", &host]).ok(), "Login Succeeded");
    assert_eq!(node.agent(&["logout", &host]).ok(), format!("Removing login credentials for {host}"));
    assert_eq!(config(&node), json!({ "HttpHeaders": { "X": "y" }, "auths": {} }));
    node.agent(&["pull", &name]).refused(1);
    assert_eq!(node.agent(&["logout", &host]).ok(), format!("Not logged in to {host}"));
}

#[test]
fn what_others_keep_is_understood() {
    let (node, registry) = private();
    let host = registry.host();
    let mut skopeo = node.netns.command("skopeo");
    skopeo.args(["login", "--tls-verify=false", "-u", USER, "-p", PASSWORD, "--authfile"]);
    skopeo.arg(node.dir().join("auth.json")).arg(format!("{host}/private"));
    program::run(&mut skopeo, b"", LIMIT).ok();
    let name = format!("{host}/private:latest");
    node.agent(&["pull", &name]).refused(1);
    let mut pull = node.command();
    pull.args(["pull", "-q", &name]).env("REGISTRY_AUTH_FILE", node.dir().join("auth.json"));
    assert_eq!(program::run(&mut pull, b"", LIMIT).ok(), name);
}

#[test]
fn wrong_arguments_are_told_in_one_line() {
    let (node, registry) = private();
    let host = registry.host();
    for (words, stdin, word) in [
        (&["login", "--password-stdin", &host][..], PASSWORD, "--username"),
        (&["login", "-u", USER, &host], "", "--password-stdin"),
        (&["login", &host], "", "terminal"),
        (&["login", "-u", USER, "--password-stdin", &host], "\n", "empty"),
        (&["login", "-u", "a:b", "--password-stdin", &host], PASSWORD, "colon"),
        (&["login", "-u", USER, "-p", "x", "--password-stdin", &host], PASSWORD, "--password"),
        (&["login", "127.0.0.1:5000/team"], "", "host[:port]"),
        (&["login", "-u", USER, "--password-stdin", "127.0.0.1:1"], PASSWORD, "cannot reach"),
    ] {
        let line = node.agent_fed(words, stdin).refused(1);
        assert!(line.contains(word), "{words:?}: {line}");
    }
    let output = node.agent(&["login", "-u", USER, "-p", PASSWORD, &host]);
    assert!(output.stderr.contains("--password-stdin"), "{output:?}");
    assert_eq!(output.ok(), "Login Succeeded");
}

#[test]
fn on_a_terminal_the_password_is_asked_for_and_not_shown() {
    let (node, registry) = private();
    let host = registry.host();
    let mut command = node.command();
    command.args(["login", &host]);
    let mut terminal = Terminal::start(&command, 24, 100);
    terminal.wait_for("Username: ");
    terminal.write("reader\n");
    terminal.wait_for("Password: ");
    // With a mistake, mended.
    terminal.write("secrex\u{7f}t\r");
    let (code, shown) = terminal.finish();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("Login Succeeded") && !shown.contains("secre"), "{shown}");

    fs::remove_file(config_file(&node)).expect("it was just written");
    let mut terminal = Terminal::start(&command, 24, 100);
    terminal.wait_for("Username: ");
    terminal.write("reader\n");
    terminal.wait_for("Password: ");
    terminal.write("secret\u{3}");
    assert_eq!(terminal.finish().0, 130);
    assert!(!config_file(&node).exists());
}

#[test]
fn an_identity_token_is_kept_in_place_of_the_password() {
    let node = Node::offline();
    fill(&node);
    let spec = TokenSpec { refreshes: true, ..TokenSpec::default() };
    let tokens = TokenServer::start(&node.netns, node.dir(), spec);
    let spec = RegistrySpec { tokens: Some(&tokens), ..RegistrySpec::default() };
    let registry = Registry::start_as(&node.netns, node.dir(), &spec);
    let host = registry.host();
    allow_plain(&node, &host);
    let login = ["login", "-u", USER, "--password-stdin", &host];
    node.agent_fed(&login, "wrong").refused(1);
    assert_eq!(node.agent_fed(&login, PASSWORD).ok(), "Login Succeeded");
    // base64 of reader:
    assert_eq!(config(&node)["auths"][&host], json!({ "auth": "cmVhZGVyOg==", "identitytoken": REFRESH }));
    tokens.take_asked();
    node.pull(&format!("{host}/private:latest"));
    let asked = tokens.take_asked();
    assert!(asked.iter().all(|asked| asked.refresh.as_deref() == Some(REFRESH)), "{asked:?}");
    assert_eq!(node.agent(&["login", &host]).ok(), "Login Succeeded");
}

#[test]
fn a_helper_keeps_what_the_configuration_leaves_to_it() {
    let (node, registry) = private();
    let host = registry.host();
    let (bin, kept) = (node.dir().join("bin"), node.dir().join("kept"));
    fs::create_dir(&bin).expect("the folder is ours");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {0};;\nerase) rm {0};;\n\
         get) cat {0} 2>/dev/null || {{ echo credentials not found in native keychain; exit 1; }};;\nesac\n",
        kept.display()
    );
    fs::write(bin.join("docker-credential-drawer"), script).expect("the folder is ours");
    fs::set_permissions(bin.join("docker-credential-drawer"), fs::Permissions::from_mode(0o755))
        .expect("ours");
    fs::create_dir(node.dir().join(".docker")).expect("the folder is ours");
    let configure = |config: Value| fs::write(config_file(&node), config.to_string()).expect("ours");
    let agent = |words: &[&str], stdin: &str| {
        let mut command = node.command();
        command.args(words).env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        program::run(&mut command, stdin.as_bytes(), LIMIT)
    };
    let name = format!("{host}/private:latest");
    let login = ["login", "-u", USER, "--password-stdin", &host];
    for chosen in [json!({ "credHelpers": { &host: "drawer" } }), json!({ "credsStore": "drawer" })] {
        configure(chosen.clone());
        let line = agent(&["pull", &name], "").refused(1);
        assert!(line.contains("agent login"), "{line}");
        let output = agent(&login, PASSWORD);
        assert!(!output.stderr.contains("unencrypted"), "{output:?}");
        assert_eq!(output.ok(), "Login Succeeded");
        let stored: Value = serde_json::from_slice(&fs::read(&kept).expect("stored")).expect("JSON");
        assert_eq!(stored, json!({ "ServerURL": host, "Username": USER, "Secret": PASSWORD }));
        let mut expected = chosen;
        expected["auths"] = json!({ &host: {} });
        assert_eq!(config(&node), expected);
        agent(&["pull", "-q", &name], "").ok();
        agent(&["logout", &host], "").ok();
        assert!(!kept.exists());
        assert_eq!(agent(&["logout", &host], "").ok(), format!("Not logged in to {host}"));
    }
    for (helper, words) in
        [("missing", ["docker-credential-missing", "not installed"]), ("../x", ["../x", "name"])]
    {
        configure(json!({ "credHelpers": { &host: helper } }));
        let line = agent(&["pull", &name], "").refused(1);
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
    }
}

#[test]
fn anybody_may_log_in() {
    let (node, registry) = private();
    let (host, home) = (registry.host(), node.dir().join("home"));
    fs::create_dir(&home).expect("the folder is ours");
    fs::set_permissions(node.dir(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    std::os::unix::fs::chown(&home, Some(65534), Some(65534)).expect("root may do so");
    let agent = tests::support::node::binary("agent");
    let as_nobody = |words: &[&str], stdin: &str| {
        let mut command: Command = node.netns.command("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"]);
        command.arg(&agent).args(words);
        node.environment(&mut command);
        command.env("HOME", &home).env_remove("AGENT_NETNS");
        program::run(&mut command, stdin.as_bytes(), LIMIT)
    };
    let login = ["login", "-u", USER, "--password-stdin", &host];
    assert_eq!(as_nobody(&login, PASSWORD).ok(), "Login Succeeded");
    let facts = fs::metadata(home.join(".docker/config.json")).expect("it was written");
    assert_eq!((facts.uid(), facts.mode() & 0o777), (65534, 0o600));
    as_nobody(&["logout", &host], "").ok();
    let line = as_nobody(&["pull", "x"], "").refused(1);
    assert!(line.contains("root"), "{line}");
    // What they did is no business of ours.
    assert_eq!(tool(["find", node.dir().to_str().expect("plain"), "-path", "*/lib/*"]), "");
}
