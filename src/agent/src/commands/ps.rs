//! `agent ps`: the containers of this machine.

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use runtime::{ContainerState, ContainerView, NetworkMode, PortMapping, Runtime};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::print::{self, Column, Format};

/// Characters of a command that a table shows.
const COMMAND_CHARS: usize = 20;

const COLUMNS: [Column; 7] = [
    ("CONTAINER ID", "ID"),
    ("IMAGE", "Image"),
    ("COMMAND", "Command"),
    ("CREATED", "RunningFor"),
    ("STATUS", "Status"),
    ("PORTS", "Ports"),
    ("NAMES", "Names"),
];

/// List containers
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Those that have ended too
    #[arg(short, long)]
    all: bool,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    /// Ids and commands whole
    #[arg(long)]
    no_trunc: bool,
    /// Only those that this fits: name=TEXT, id=BEGINNING, status=WORD, label=KEY[=VALUE]
    #[arg(short, long = "filter", value_name = "KEY=VALUE", value_parser = parse_filter)]
    filters: Vec<Filter>,
    /// table, json (an object a line), or a template such as '{{.ID}}: {{.Status}}'
    #[arg(long, default_value = "table", hide_default_value = true, value_parser = print::parse_format)]
    format: Format,
}

/// A condition on what is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Filter {
    Name(String),
    Id(String),
    Status(String),
    Label(String, Option<String>),
}

impl Ps {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        let now = Timestamp::now();
        // Whoever asks for a status means every container that has it.
        let all = self.all || self.filters.iter().any(|filter| matches!(filter, Filter::Status(_)));
        let views = runtime.list()?.into_iter().filter(|view| {
            (all || matches!(view.state, ContainerState::Running { .. })) && fits(view, &self.filters)
        });
        let id = |view: &ContainerView| match self.no_trunc {
            true => view.id.clone(),
            false => view.short_id().to_owned(),
        };
        if self.quiet {
            let ids: String = views.map(|view| id(&view) + "\n").collect();
            print::out(&ids)?;
            return Ok(Exit::Success);
        }
        print::list(&self.format, &COLUMNS, views.map(|view| row(&view, id(&view), self.no_trunc, now)))?;
        Ok(Exit::Success)
    }
}

fn row(view: &ContainerView, id: String, whole: bool, now: Timestamp) -> Value {
    let labels: Vec<String> =
        view.options.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let network = match view.options.network {
        NetworkMode::Bridge => "bridge",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
    };
    json!({
        "Command": command(&view.args, whole),
        "CreatedAt": view.created.to_string(),
        "ID": id,
        "Image": view.options.image,
        "Labels": labels.join(","),
        "Names": view.name,
        "Networks": network,
        "Ports": ports(view),
        "RunningFor": print::ago(view.created, now),
        "State": view.state.word(),
        "Status": status(&view.state, now),
    })
}

/// `Up 3 seconds`, `Exited (0) 5 seconds ago`, `Created`.
pub(crate) fn status(state: &ContainerState, now: Timestamp) -> String {
    match state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running { started_at, .. } => {
            format!("Up {}", print::span(now.duration_since(*started_at)))
        }
        ContainerState::Exited(record) => {
            format!("Exited ({}) {}", record.exit_code, print::ago(record.finished_at, now))
        }
    }
}

/// The command in quotes, its end left out of a table when it is long.
pub(crate) fn command(args: &[String], whole: bool) -> String {
    let command = args.join(" ");
    if whole || command.chars().count() <= COMMAND_CHARS {
        return format!("\"{command}\"");
    }
    let begin: String = command.chars().take(COMMAND_CHARS - 1).collect();
    format!("\"{begin}…\"")
}

fn ports(view: &ContainerView) -> String {
    let ports = view.network.iter().flat_map(|network| &network.ports).map(port);
    ports.collect::<Vec<_>>().join(", ")
}

/// `0.0.0.0:8080->80/tcp`.
fn port(port: &PortMapping) -> String {
    let host = port.host_ip.map_or("0.0.0.0".to_owned(), |ip| ip.to_string());
    format!("{host}:{}->{}/{}", port.host_port, port.container_port, port.protocol)
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    let known = "use name=, id=, status= or label=";
    let (key, value) = text.split_once('=').ok_or_else(|| format!("'{text}' is no filter: {known}"))?;
    Ok(match key {
        "name" => Filter::Name(value.trim_start_matches('/').to_owned()),
        "id" => Filter::Id(value.to_owned()),
        "status" if ["created", "running", "exited"].contains(&value) => Filter::Status(value.to_owned()),
        "status" => return Err(format!("'{value}' is no status: use created, running or exited")),
        "label" => match value.split_once('=') {
            Some((label, value)) => Filter::Label(label.to_owned(), Some(value.to_owned())),
            None => Filter::Label(value.to_owned(), None),
        },
        other => return Err(format!("'{other}' is no key of a filter: {known}")),
    })
}

/// Whether a container fits: one of the filters of each key, as with docker.
fn fits(view: &ContainerView, filters: &[Filter]) -> bool {
    let fits = |filter: &Filter| match filter {
        Filter::Name(part) => view.name.contains(part.as_str()),
        Filter::Id(begin) => view.id.starts_with(begin.as_str()),
        Filter::Status(word) => view.state.word() == word,
        Filter::Label(key, None) => view.options.labels.contains_key(key),
        Filter::Label(key, Some(value)) => view.options.labels.get(key) == Some(value),
    };
    filters.iter().all(|filter| match filter {
        Filter::Label(..) => fits(filter),
        one => {
            let same = |other: &&Filter| std::mem::discriminant(*other) == std::mem::discriminant(one);
            filters.iter().filter(same).any(fits)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::{Attachment, ContainerOptions, ExitRecord, Protocol};

    fn view() -> ContainerView {
        ContainerView {
            id: "0123456789abcdef".repeat(4),
            name: "web".to_owned(),
            image_id: "sha256:00".to_owned(),
            options: ContainerOptions {
                image: "app".to_owned(),
                labels: [("tier".to_owned(), "front".to_owned())].into(),
                ..ContainerOptions::default()
            },
            args: vec!["sleep".to_owned(), "10".to_owned()],
            created: Timestamp::UNIX_EPOCH,
            state: ContainerState::Running { pid: 7, started_at: Timestamp::UNIX_EPOCH },
            network: None,
            log_path: "/nowhere".into(),
        }
    }

    #[test]
    fn states_are_worded_as_docker_words_them() {
        let now = Timestamp::from_second(125).expect("in range");
        let check = |state: ContainerState, expected: &str| assert_eq!(status(&state, now), expected);
        check(ContainerState::Created, "Created");
        check(view().state, "Up 2 minutes");
        check(ContainerState::Exited(ExitRecord::for_test(3)), "Exited (3) 2 minutes ago");
    }

    #[test]
    fn long_commands_are_cut() {
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(command(&args("sleep 10"), false), "\"sleep 10\"");
        assert_eq!(command(&args("12345678901234567890"), false), "\"12345678901234567890\"");
        assert_eq!(command(&args("123456789012345678 90"), false), "\"123456789012345678 …\"");
        assert_eq!(command(&args("123456789012345678 90"), true), "\"123456789012345678 90\"");
    }

    #[test]
    fn ports_show_where_they_are_reached() {
        let mapping = |host_ip: Option<&str>, host_port, protocol| PortMapping {
            host_ip: host_ip.map(|ip| ip.parse().expect("an address")),
            host_port,
            container_port: 80,
            protocol,
        };
        let network = Attachment {
            ip: [10, 86, 0, 2].into(),
            prefix_len: 16,
            gateway: [10, 86, 0, 1].into(),
            mac: String::new(),
            ports: vec![mapping(None, 8080, Protocol::Tcp), mapping(Some("127.0.0.1"), 53, Protocol::Udp)],
            bridge: String::new(),
            host_interface: String::new(),
            container_interface: String::new(),
        };
        let view = ContainerView { network: Some(network), ..view() };
        assert_eq!(ports(&view), "0.0.0.0:8080->80/tcp, 127.0.0.1:53->80/udp");
    }

    #[test]
    fn filters_of_one_key_are_alternatives() {
        let check = |texts: &[&str], expected: bool| {
            let filters: Vec<Filter> = texts.iter().map(|text| parse_filter(text).expect(text)).collect();
            assert_eq!(fits(&view(), &filters), expected, "{texts:?}");
        };
        check(&[], true);
        check(&["name=we"], true);
        check(&["name=db"], false);
        check(&["name=db", "name=web"], true);
        check(&["name=web", "status=exited"], false);
        check(&["id=0123", "status=running"], true);
        check(&["label=tier"], true);
        check(&["label=tier=front", "label=other"], false);
        for wrong in ["name", "color=red", "status=odd"] {
            assert!(parse_filter(wrong).is_err(), "{wrong}");
        }
    }
}
