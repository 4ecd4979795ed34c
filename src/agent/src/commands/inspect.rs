//! `agent inspect`: all that is known of containers and images, as JSON in docker's shape.

mod image;

use ::image::Image;
use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use runtime::{ContainerState, ContainerView, MountOption, NetworkMode, PortMapping, Runtime};
use serde_json::{Map, Value, json};

use crate::exit::Exit;
use crate::print::Template;

/// docker's word for a time that has not come.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Show all that is known of containers and images
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// What the names stand for; otherwise a container comes before an image
    #[arg(long = "type", value_enum)]
    kind: Option<Kind>,
    #[command(flatten)]
    inspection: Inspection,
}

/// What is inspected, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Inspection {
    /// json (all on one line), or a template such as '{{.Id}}', filled in for each
    #[arg(short, long, value_parser = parse_format)]
    format: Option<InspectFormat>,
    /// Names, ids or references
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// What can be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Container,
    Image,
}

/// How it is printed; indented otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InspectFormat {
    Json,
    Template(Template),
}

fn parse_format(text: &str) -> Result<InspectFormat, String> {
    match text {
        "json" => Ok(InspectFormat::Json),
        _ => Template::parse(text).map(InspectFormat::Template),
    }
}

impl Inspect {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        self.inspection.run(runtime, self.kind)
    }
}

impl Inspection {
    pub(crate) fn run(self, runtime: &Runtime, kind: Option<Kind>) -> Result<Exit> {
        let mut found = Vec::new();
        let mut all = true;
        for name in &self.names {
            match look_up(runtime, name, kind) {
                Ok(value) => found.push(value),
                Err(error) => {
                    crate::complain(&format!("{error:#}"));
                    all = false;
                }
            }
        }
        let text = match &self.format {
            Some(InspectFormat::Json) => serde_json::to_string(&found)? + "\n",
            Some(InspectFormat::Template(template)) => {
                let lines = found.iter().map(|value| Ok(template.render(value)? + "\n"));
                lines.collect::<Result<String, String>>().map_err(|reason| anyhow!("--format: {reason}"))?
            }
            None => serde_json::to_string_pretty(&found)? + "\n",
        };
        crate::print::out(&text)?;
        Ok(Exit::all(all))
    }
}

fn look_up(runtime: &Runtime, name: &str, kind: Option<Kind>) -> Result<Value> {
    if kind != Some(Kind::Image) {
        match runtime.find(name) {
            Ok(view) => {
                // The image's name may be another's by now, or the image gone.
                let image = runtime.images().resolve(&view.image_id)?;
                return Ok(container(&view, image.as_ref()));
            }
            Err(error) if error.is_not_found() && kind.is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    match runtime.images().resolve(name)? {
        Some(found) => image::describe(runtime.images(), &found),
        None if kind.is_some() => bail!("no such image: {name}"),
        None => bail!("no such container or image: {name}"),
    }
}

/// A container, in the shape of docker's `GET /containers/ID/json`.
fn container(view: &ContainerView, image: Option<&Image>) -> Value {
    let options = &view.options;
    let config = image.and_then(|image| image.config.config().as_ref());
    let image_env = config.and_then(|config| config.env().as_ref()).map_or(&[][..], Vec::as_slice);
    let or_image =
        |own: &Option<String>, images: Option<&String>| own.as_ref().or(images).cloned().unwrap_or_default();
    let entrypoint = match &options.entrypoint {
        Some(own) => Some(own),
        None => config.and_then(|config| config.entrypoint().as_ref()),
    };
    let command = match (&options.command[..], &options.entrypoint) {
        ([], None) => config.and_then(|config| config.cmd().as_ref()),
        _ => Some(&options.command),
    };
    json!({
        "Id": view.id,
        "Created": view.created.to_string(),
        "Path": view.args.first(),
        "Args": view.args.get(1..).unwrap_or_default(),
        "State": state(&view.state),
        "Image": view.image_id,
        "LogPath": view.log_path,
        "Name": format!("/{}", view.name),
        "Config": {
            "Hostname": options.hostname.as_deref().unwrap_or(view.short_id()),
            "User": or_image(&options.user, config.and_then(|config| config.user().as_ref())),
            "Tty": options.tty,
            "OpenStdin": options.interactive,
            "Env": merged_env(image_env, &options.env),
            "Cmd": command,
            "Entrypoint": entrypoint,
            "Image": options.image,
            "WorkingDir": or_image(&options.workdir, config.and_then(|config| config.working_dir().as_ref())),
            "Labels": options.labels,
        },
        "HostConfig": {
            "Binds": options.mounts.iter().filter_map(bind).collect::<Vec<_>>(),
            "Tmpfs": tmpfs(&options.mounts),
            "NetworkMode": network_mode(options.network),
            "PortBindings": port_map(&options.ports),
            "AutoRemove": options.remove,
            "CapAdd": options.cap_add,
            "CapDrop": options.cap_drop,
            "ReadonlyRootfs": options.read_only,
            "NanoCpus": options.limits.cpu_milli.unwrap_or(0).saturating_mul(1_000_000),
            "Memory": options.limits.memory.unwrap_or(0),
            "PidsLimit": options.limits.pids,
        },
        "NetworkSettings": network(view),
        "Mounts": options.mounts.iter().map(mount).collect::<Vec<_>>(),
    })
}

fn state(state: &ContainerState) -> Value {
    let time = |time: &Timestamp| time.to_string();
    let (pid, started, finished) = match state {
        ContainerState::Created => (0, NO_TIME.to_owned(), NO_TIME.to_owned()),
        ContainerState::Running { pid, started_at } => (*pid, time(started_at), NO_TIME.to_owned()),
        ContainerState::Exited(record) => (0, time(&record.started_at), time(&record.finished_at)),
    };
    let record = match state {
        ContainerState::Exited(record) => Some(record),
        ContainerState::Created | ContainerState::Running { .. } => None,
    };
    json!({
        "Status": state.word(),
        "Running": matches!(state, ContainerState::Running { .. }),
        "Pid": pid,
        "ExitCode": record.map_or(0, |record| record.exit_code),
        "OOMKilled": record.is_some_and(|record| record.oom_killed),
        "Error": record.and_then(|record| record.error.as_deref()).unwrap_or_default(),
        "StartedAt": started,
        "FinishedAt": finished,
    })
}

fn network(view: &ContainerView) -> Value {
    let Some(network) = &view.network else {
        return json!({ "IPAddress": "", "IPPrefixLen": 0, "Gateway": "", "MacAddress": "", "Ports": {} });
    };
    json!({
        "IPAddress": network.ip.to_string(),
        "IPPrefixLen": network.prefix_len,
        "Gateway": network.gateway.to_string(),
        "MacAddress": network.mac,
        "Bridge": network.bridge,
        "Ports": port_map(&network.ports),
    })
}

fn network_mode(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Bridge => "bridge",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    }
}

/// `{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}`.
fn port_map(ports: &[PortMapping]) -> Value {
    let mut map = Map::new();
    for port in ports {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let binding = json!({
            "HostIp": port.host_ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string()),
            "HostPort": port.host_port.to_string(),
        });
        match map.entry(key).or_insert_with(|| json!([])) {
            Value::Array(bindings) => bindings.push(binding),
            _ => unreachable!("only arrays are put in"),
        }
    }
    Value::Object(map)
}

/// The image's variables, those of the same name replaced by the user's.
fn merged_env(images: &[String], own: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split_once('=').map_or(variable, |(name, _)| name).to_owned();
    let mut merged: Vec<String> = Vec::new();
    for variable in images.iter().chain(own) {
        match merged.iter_mut().find(|other| name(other) == name(variable)) {
            Some(other) => other.clone_from(variable),
            None => merged.push(variable.clone()),
        }
    }
    merged
}

/// A bind or a named volume as `-v` takes it.
fn bind(mount: &MountOption) -> Option<String> {
    let (source, target, read_only) = match mount {
        MountOption::Bind { source, target, read_only } => (source.display().to_string(), target, read_only),
        MountOption::Volume { name, target, read_only } => (name.clone(), target, read_only),
        MountOption::Tmpfs { .. } => return None,
    };
    Some(format!("{source}:{}{}", target.display(), if *read_only { ":ro" } else { "" }))
}

fn tmpfs(mounts: &[MountOption]) -> Value {
    let tmpfs = mounts.iter().filter_map(|mount| match mount {
        MountOption::Tmpfs { target, options } => {
            Some((target.display().to_string(), json!(options.join(","))))
        }
        MountOption::Bind { .. } | MountOption::Volume { .. } => None,
    });
    Value::Object(tmpfs.collect())
}

fn mount(mount: &MountOption) -> Value {
    match mount {
        MountOption::Bind { source, target, read_only } => {
            json!({ "Type": "bind", "Source": source, "Destination": target, "RW": !read_only })
        }
        MountOption::Volume { name, target, read_only } => {
            json!({ "Type": "volume", "Name": name, "Destination": target, "RW": !read_only })
        }
        MountOption::Tmpfs { target, options } => {
            json!({ "Type": "tmpfs", "Destination": target, "Mode": options.join(","), "RW": true })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::{ContainerOptions, ExitRecord, Limits, Protocol};

    #[test]
    fn a_container_is_told_in_dockers_words() {
        let options = ContainerOptions {
            image: "app".to_owned(),
            command: vec!["-x".to_owned()],
            env: vec!["A=b".to_owned()],
            mounts: vec![
                MountOption::Bind { source: "/srv".into(), target: "/data".into(), read_only: true },
                MountOption::Tmpfs { target: "/tmp".into(), options: vec!["size=1m".to_owned()] },
            ],
            ports: vec![PortMapping {
                host_ip: None,
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
            limits: Limits { cpu_milli: Some(500), memory: Some(64 << 20), pids: None },
            ..ContainerOptions::default()
        };
        let view = ContainerView {
            id: "ab".repeat(32),
            name: "web".to_owned(),
            image_id: "sha256:00".to_owned(),
            options,
            args: vec!["app".to_owned(), "-x".to_owned()],
            created: Timestamp::UNIX_EPOCH,
            state: ContainerState::Exited(ExitRecord::for_test(3)),
            network: None,
            log_path: "/l".into(),
        };
        let value = container(&view, None);
        let check =
            |pointer: &str, expected: Value| assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
        check("/Name", json!("/web"));
        check("/Path", json!("app"));
        check("/Args", json!(["-x"]));
        check("/State/Status", json!("exited"));
        check("/State/ExitCode", json!(3));
        check("/State/Running", json!(false));
        check("/Config/Hostname", json!("abababababab"));
        check("/Config/Cmd", json!(["-x"]));
        check("/HostConfig/NanoCpus", json!(500_000_000));
        check("/HostConfig/Memory", json!(67_108_864));
        check("/HostConfig/Binds", json!(["/srv:/data:ro"]));
        check("/HostConfig/Tmpfs", json!({ "/tmp": "size=1m" }));
        check("/HostConfig/PortBindings", json!({ "80/tcp": [{ "HostIp": "0.0.0.0", "HostPort": "8080" }] }));
        check("/NetworkSettings/IPAddress", json!(""));
        let running = ContainerState::Running { pid: 7, started_at: Timestamp::UNIX_EPOCH };
        assert_eq!(state(&running)["Pid"], json!(7));
        assert_eq!(state(&running)["FinishedAt"], json!(NO_TIME));
    }

    #[test]
    fn later_variables_win() {
        let env = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let merged = merged_env(&env(&["PATH=/bin", "A=1"]), &env(&["A=2", "B=", "B=3"]));
        assert_eq!(merged, env(&["PATH=/bin", "A=2", "B=3"]));
    }
}
