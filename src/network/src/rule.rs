//! Rule sets computed as text for `iptables-restore --noflush`; nothing here touches the kernel.
//!
//! ```text
//! raw     PREROUTING ──> AGENT-RAW          nothing from outside has to do with 127.0.0.0/8
//! nat     PREROUTING ┬─> AGENT-PORTS ──┬──> AGENT-P-<hash of id>    DNAT, one chain per container
//!         OUTPUT     ┘   (to the host) └──> …
//! nat     POSTROUTING ─> AGENT-POSTROUTING  masquerade
//! filter  FORWARD ─────> AGENT-FORWARD      containers out, answers and published ports in
//! ```
//!
//! The jumps are put first in the kernel's chains, so that a policy or a later `DROP` of the host does
//! not cut containers off. A change of one container's ports checks in the same transaction that they
//! are there: if someone flushed them, it is refused as a whole, and the caller falls back to
//! [`RuleSet::full`].

use std::collections::BTreeSet;
use std::fmt::Write;

use ipnet::Ipv4Net;

use crate::name::{PORT_CHAIN_PREFIX, check_id, port_chain};
use crate::port::PublishedPort;

const RAW: &str = "AGENT-RAW";
const PORTS: &str = "AGENT-PORTS";
const POSTROUTING: &str = "AGENT-POSTROUTING";
const FORWARD: &str = "AGENT-FORWARD";

/// A jump from one of the kernel's chains into one of ours.
struct Jump {
    table: &'static str,
    from: &'static str,
    rule: &'static str,
}

const JUMPS: [Jump; 5] = [
    Jump { table: "raw", from: "PREROUTING", rule: "-j AGENT-RAW" },
    Jump { table: "nat", from: "PREROUTING", rule: "-m addrtype --dst-type LOCAL -j AGENT-PORTS" },
    Jump { table: "nat", from: "OUTPUT", rule: "-m addrtype --dst-type LOCAL -j AGENT-PORTS" },
    Jump { table: "nat", from: "POSTROUTING", rule: "-j AGENT-POSTROUTING" },
    Jump { table: "filter", from: "FORWARD", rule: "-j AGENT-FORWARD" },
];

/// Our chains apart from those of single containers.
const BASE_CHAINS: [(&str, &str); 4] =
    [("raw", RAW), ("nat", PORTS), ("nat", POSTROUTING), ("filter", FORWARD)];

/// The rules of one bridge.
#[derive(Debug)]
pub(crate) struct RuleSet {
    bridge: String,
    subnet: Ipv4Net,
}

impl RuleSet {
    pub(crate) fn new(bridge: &str, subnet: Ipv4Net) -> Self {
        Self { bridge: bridge.to_owned(), subnet: subnet.trunc() }
    }

    /// The rules every container shares, by table.
    ///
    /// - raw: `route_localnet` on the bridge lets 127.0.0.0/8 through the kernel's martian check, so
    ///   it is checked here, on every interface but `lo` (CVE-2020-8558). Before connection tracking:
    ///   the answers to the host's own connections from 127.0.0.1 to a published port carry the
    ///   bridge's address here and are translated back only later.
    /// - nat: containers reach the outside under the host's address. A connection to a published
    ///   port that comes from a container, or from 127.0.0.1, and goes on to a container is
    ///   masqueraded too: else the answer would go straight to its sender, around the translation.
    /// - filter: the rest of what goes to the bridge is dropped, so a neighbour that routes through
    ///   this host reaches published ports only.
    fn base(&self, table: &str) -> String {
        let Self { bridge, subnet } = self;
        match table {
            "raw" => format!(
                "-A {RAW} ! -i lo -d 127.0.0.0/8 -j DROP\n\
                 -A {RAW} ! -i lo -s 127.0.0.0/8 -j DROP\n"
            ),
            "nat" => format!(
                "-A {POSTROUTING} -s {subnet} ! -o {bridge} -j MASQUERADE\n\
                 -A {POSTROUTING} -s {subnet} -o {bridge} -m conntrack --ctstate DNAT -j MASQUERADE\n\
                 -A {POSTROUTING} -s 127.0.0.0/8 -o {bridge} -j MASQUERADE\n"
            ),
            _ => format!(
                "-A {FORWARD} -i {bridge} -j ACCEPT\n\
                 -A {FORWARD} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT\n\
                 -A {FORWARD} -o {bridge} -j DROP\n"
            ),
        }
    }

    /// All shared rules as one text; changes whenever they do.
    pub(crate) fn identity(&self) -> String {
        let mut text: String = ["raw", "nat", "filter"].iter().map(|t| self.base(t)).collect();
        for Jump { table, from, rule } in &JUMPS {
            writeln!(text, "{table} {from} {rule}").expect("writing to a string does not fail");
        }
        text
    }

    /// Everything anew: the shared rules, every container's ports, the jumps first. `saved` is what
    /// `iptables-save` says, so that nothing is doubled and chains of containers gone are removed.
    pub(crate) fn full(&self, ports: &[PublishedPort], saved: &str) -> String {
        let ids: BTreeSet<&str> = ports.iter().map(|port| port.id.as_str()).collect();
        let wanted: BTreeSet<String> = ids.iter().map(|id| port_chain(id)).collect();
        let mut script = Script::default();
        for table in ["raw", "nat", "filter"] {
            script.table(table);
            let found = SavedTable::find(saved, table);
            // Declaring a chain makes it, or empties it.
            for (_, chain) in BASE_CHAINS.iter().filter(|(of, _)| *of == table) {
                script.line(&format!(":{chain} - [0:0]"));
            }
            for jump in found.rules.iter().filter(|rule| jumps_to_base(rule)) {
                script.delete(jump);
            }
            for Jump { from, rule, .. } in JUMPS.iter().filter(|jump| jump.table == table) {
                script.line(&format!("-I {from} {rule}"));
            }
            script.text.push_str(&self.base(table));
            if table == "nat" {
                for chain in found.chains.iter().filter(|chain| is_port_chain(chain)) {
                    if !wanted.contains(*chain) {
                        script.drop_chain(chain);
                    }
                }
                for id in &ids {
                    let own = ports.iter().filter(|port| port.id == **id);
                    script.container(id, own);
                }
            }
            script.commit();
        }
        script.text
    }

    /// Puts `ports`, all of them `id`'s, in place, if all our jumps are there; refused if not. (To take
    /// the jumps out and put them back would serve as well, but costs nft a grace period of the
    /// kernel, 13 ms where this is 2.)
    pub(crate) fn publish(id: &str, ports: &[PublishedPort]) -> String {
        let mut script = Script::default();
        for table in ["raw", "filter", "nat"] {
            script.table(table);
            for Jump { from, rule, .. } in JUMPS.iter().filter(|jump| jump.table == table) {
                script.line(&format!("-C {from} {rule}"));
            }
            if table == "nat" {
                script.container(id, ports.iter());
            }
            script.commit();
        }
        script.text
    }

    /// Undoes [`Self::publish`]; refused as a whole if anything of it is missing.
    pub(crate) fn withdraw(id: &str) -> String {
        let mut script = Script::default();
        script.table("nat");
        script.line(&format!("-D {}", dispatch_rule(id)));
        script.drop_chain(&port_chain(id));
        script.commit();
        script.text
    }

    /// Removes what `saved` shows of `id`'s rules; `None` if that is nothing.
    pub(crate) fn withdraw_found(id: &str, saved: &str) -> Option<String> {
        let chain = port_chain(id);
        let found = SavedTable::find(saved, "nat");
        let mut script = Script::default();
        script.table("nat");
        let jumps: Vec<&str> =
            found.rules.iter().copied().filter(|rule| target(rule) == Some(&chain)).collect();
        jumps.iter().for_each(|rule| script.delete(rule));
        let exists = found.chains.contains(&chain.as_str());
        if exists {
            script.drop_chain(&chain);
        }
        script.commit();
        (exists || !jumps.is_empty()).then_some(script.text)
    }

    /// Removes every chain and jump of ours that `saved` shows; `None` if there is none.
    pub(crate) fn remove_all(saved: &str) -> Option<String> {
        let mut script = Script::default();
        let mut any = false;
        for table in ["raw", "nat", "filter"] {
            let found = SavedTable::find(saved, table);
            let ours = |chain: &&str| is_base_chain(chain) || is_port_chain(chain);
            let chains: Vec<&str> = found.chains.iter().copied().filter(ours).collect();
            if chains.is_empty() {
                continue;
            }
            any = true;
            script.table(table);
            found.rules.iter().filter(|rule| jumps_to_base(rule)).for_each(|r| script.delete(r));
            chains.iter().for_each(|chain| script.line(&format!("-F {chain}")));
            chains.iter().for_each(|chain| script.line(&format!("-X {chain}")));
            script.commit();
        }
        any.then_some(script.text)
    }

    /// The ids that have rules in `saved`.
    pub(crate) fn ids(saved: &str) -> Vec<String> {
        let found = SavedTable::find(saved, "nat");
        let dispatch = format!("-A {PORTS} ");
        found
            .rules
            .iter()
            .filter(|rule| rule.starts_with(&dispatch))
            .filter_map(|rule| argument(rule, "--comment"))
            .map(|comment| comment.trim_matches('"').to_owned())
            .filter(|id| check_id(id).is_ok())
            .collect()
    }
}

/// The rule that sends packets on to a container's chain; deterministic, to be deleted by its text.
fn dispatch_rule(id: &str) -> String {
    format!("{PORTS} -m comment --comment \"{id}\" -j {}", port_chain(id))
}

fn is_base_chain(chain: &str) -> bool {
    BASE_CHAINS.iter().any(|(_, base)| *base == chain)
}

fn is_port_chain(chain: &str) -> bool {
    chain.starts_with(PORT_CHAIN_PREFIX)
}

fn jumps_to_base(rule: &str) -> bool {
    target(rule).is_some_and(is_base_chain)
}

fn target(rule: &str) -> Option<&str> {
    argument(rule, "-j")
}

/// The word after `option`. Comments with spaces are not ours and match nothing of ours.
fn argument<'a>(rule: &'a str, option: &str) -> Option<&'a str> {
    rule.split_ascii_whitespace().skip_while(|word| *word != option).nth(1)
}

/// A restore script in the making.
#[derive(Default)]
struct Script {
    text: String,
}

impl Script {
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn table(&mut self, table: &str) {
        self.line(&format!("*{table}"));
    }

    fn commit(&mut self) {
        self.line("COMMIT");
    }

    /// Deletes a rule given as `iptables-save` wrote it.
    fn delete(&mut self, saved_rule: &str) {
        if let Some(rule) = saved_rule.strip_prefix("-A ") {
            self.line(&format!("-D {rule}"));
        }
    }

    fn drop_chain(&mut self, chain: &str) {
        self.line(&format!("-F {chain}"));
        self.line(&format!("-X {chain}"));
    }

    fn container<'a>(&mut self, id: &str, ports: impl Iterator<Item = &'a PublishedPort>) {
        let chain = port_chain(id);
        self.line(&format!(":{chain} - [0:0]"));
        for port in ports {
            let PublishedPort { protocol, host_ip, host_port, container_ip, container_port, .. } = port;
            let destination = if host_ip.is_unspecified() { String::new() } else { format!(" -d {host_ip}") };
            self.line(&format!(
                "-A {chain}{destination} -p {protocol} -m {protocol} --dport {host_port} \
                 -m comment --comment \"{id}\" -j DNAT --to-destination {container_ip}:{container_port}"
            ));
        }
        self.line(&format!("-A {}", dispatch_rule(id)));
    }
}

/// One table of what `iptables-save` wrote.
#[derive(Default)]
struct SavedTable<'a> {
    chains: Vec<&'a str>,
    /// Whole lines, `-A CHAIN …`.
    rules: Vec<&'a str>,
}

impl<'a> SavedTable<'a> {
    fn find(saved: &'a str, table: &str) -> Self {
        let mut found = Self::default();
        let mut current = "";
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                current = name.trim_end();
            } else if current != table {
                continue;
            } else if let Some(chain) = line.strip_prefix(':') {
                found.chains.extend(chain.split_ascii_whitespace().next());
            } else if line.starts_with("-A ") {
                found.rules.push(line);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::Protocol;

    fn rules() -> RuleSet {
        RuleSet::new("agent0", "10.86.0.0/16".parse().unwrap())
    }

    fn port(id: &str, host_ip: Ipv4Addr) -> PublishedPort {
        PublishedPort {
            id: id.to_owned(),
            protocol: Protocol::Tcp,
            host_ip,
            host_port: 2580,
            container_ip: Ipv4Addr::new(10, 86, 0, 2),
            container_port: 80,
        }
    }

    const SAVED: &str = "\
# Generated by iptables-save
*nat
:PREROUTING ACCEPT [0:0]
:AGENT-PORTS - [0:0]
:AGENT-P-4b5e57f6eb2f42b9 - [0:0]
:AGENTX - [0:0]
-A PREROUTING -m comment --comment \"not ours\" -j AGENTX
-A PREROUTING -m addrtype --dst-type LOCAL -j AGENT-PORTS
-A AGENT-PORTS -m comment --comment web -j AGENT-P-4b5e57f6eb2f42b9
-A AGENT-P-4b5e57f6eb2f42b9 -p tcp -m tcp --dport 2580 -j DNAT --to-destination 10.86.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
COMMIT
";

    #[test]
    fn publishing_checks_the_jumps_and_changes_only_its_own_chain() {
        let local = port("web", Ipv4Addr::LOCALHOST);
        let text = RuleSet::publish("web", &[port("web", Ipv4Addr::UNSPECIFIED), local]);
        assert!(text.contains(
            "-A AGENT-P-4b5e57f6eb2f42b9 -p tcp -m tcp --dport 2580 -m comment --comment \"web\" \
             -j DNAT --to-destination 10.86.0.2:80\n"
        ));
        assert!(text.contains("-A AGENT-P-4b5e57f6eb2f42b9 -d 127.0.0.1 -p tcp"));
        for Jump { from, rule, .. } in JUMPS {
            assert!(text.contains(&format!("-C {from} {rule}\n")));
        }
        let (checks, changes) = text.split_once("*nat\n").unwrap();
        assert!(!checks.contains("-A") && !checks.contains(':'), "{checks}");
        assert!(!changes.contains(":AGENT-PORTS"), "would empty it: {changes}");
    }

    #[test]
    fn what_was_saved_is_found_and_only_ours_is_removed() {
        assert_eq!(RuleSet::ids(SAVED), ["web"]);
        let expected = "*nat\n\
             -D AGENT-PORTS -m comment --comment web -j AGENT-P-4b5e57f6eb2f42b9\n\
             -F AGENT-P-4b5e57f6eb2f42b9\n-X AGENT-P-4b5e57f6eb2f42b9\nCOMMIT\n";
        assert_eq!(RuleSet::withdraw_found("web", SAVED).as_deref(), Some(expected));
        assert_eq!(RuleSet::withdraw_found("db", SAVED), None);
        let all = RuleSet::remove_all(SAVED).unwrap();
        assert!(all.contains("-D PREROUTING -m addrtype --dst-type LOCAL -j AGENT-PORTS\n"));
        assert!(all.contains("-X AGENT-PORTS\n"));
        assert!(!all.contains("AGENTX") && !all.contains("*filter"), "{all}");
        assert_eq!(RuleSet::remove_all("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"), None);
    }

    #[test]
    fn the_full_set_replaces_what_is_there() {
        let text = rules().full(&[port("db", Ipv4Addr::UNSPECIFIED)], SAVED);
        assert!(text.contains("-D PREROUTING -m addrtype --dst-type LOCAL -j AGENT-PORTS\n"));
        assert!(text.contains("-X AGENT-P-4b5e57f6eb2f42b9\n"), "{text}");
        assert!(text.contains("--comment \"db\""));
        for table in ["*raw\n", "*nat\n", "*filter\n"] {
            assert!(text.contains(table));
        }
        assert!(text.contains("-I FORWARD -j AGENT-FORWARD\n"));
    }
}
