//! `agent image gc`: removes images when the disk fills up, as the kubelet does.

use anyhow::{Result, bail};
use clap::Args;
use image::{Collected, GcPlan, GcPolicy, GcStep, Verdict};
use jiff::{SignedDuration, Timestamp};
use runtime::Runtime;

use crate::commands::familiar;
use crate::exit::Exit;
use crate::flags::parse_span;
use crate::print::{self, Table};

/// Remove unused images, least recently used first, when the disk they lie on is too full
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Begin when the disk is used to this percentage
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    high: u8,
    /// End when it is used to this percentage at most
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    low: u8,
    /// Spare images that came within this time, such as 90s, 10m, 1h30m
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = parse_span)]
    min_age: SignedDuration,
    /// Tell what would go and what would stay, and why, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(crate) fn run(self, runtime: &Runtime) -> Result<Exit> {
        if self.low > self.high {
            bail!("--low ({}) must not be above --high ({})", self.low, self.high);
        }
        let policy = GcPolicy { high: self.high, low: self.low, min_age: self.min_age };
        let store = runtime.images();
        let in_use = |id: &str| runtime.image_in_use(id);
        let now = Timestamp::now();
        if self.dry_run {
            let usage = store.disk_usage()?;
            let plan = policy.plan(&store.gc_images(&in_use)?, usage, now);
            print::out(&told(&plan, usage.percent(), &policy, now))?;
            return Ok(Exit::Success);
        }
        let Collected { plan, removed, before, after } =
            store.collect(&policy, &in_use, &|| store.disk_usage(), now)?;
        let mut text: String = removed
            .iter()
            .map(|step| format!("removed {} ({})\n", familiar(&step.name), print::size(step.bytes)))
            .collect();
        text.push_str(&format!("disk: {}% used, now {}%\n", before.percent(), after.percent()));
        print::out(&text)?;
        if plan.wanted > 0 && after.excess(self.low) > 0 {
            bail!(
                "the disk is still used to {}%, more than {}%: all other images are in use, pinned or too young",
                after.percent(),
                self.low
            );
        }
        Ok(Exit::Success)
    }
}

/// The plan in words.
fn told(plan: &GcPlan, percent: u64, policy: &GcPolicy, now: Timestamp) -> String {
    let mut table = Table::new(["IMAGE", "FREES", "LAST USED", "VERDICT"].map(str::to_owned).to_vec());
    for step in &plan.steps {
        let used = print::ago(step.last_used, now);
        table.row(vec![familiar(&step.name), print::size(step.bytes), used, verdict(step, policy)]);
    }
    let (high, low) = (policy.high, policy.low);
    let last = match plan.wanted {
        0 => format!("disk: {percent}% used, less than {high}%: nothing would be removed\n"),
        wanted => format!(
            "disk: {percent}% used, to come down to {low}%: {} wanted, {} would be freed\n",
            print::size(wanted),
            print::size(plan.freed())
        ),
    };
    table.render() + &last
}

fn verdict(step: &GcStep, policy: &GcPolicy) -> String {
    match &step.verdict {
        Verdict::Remove => "goes".to_owned(),
        Verdict::NotNeeded => "stays: not needed".to_owned(),
        Verdict::InUse(container) => format!("stays: in use by container {container}"),
        Verdict::Pinned => "stays: pinned".to_owned(),
        Verdict::TooYoung => format!("stays: younger than {}", print::span(policy.min_age)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_explains_itself() {
        let now = Timestamp::from_second(1000).expect("in range");
        let step = |name: &str, verdict| GcStep {
            id: "sha256:00".to_owned(),
            name: name.to_owned(),
            bytes: 1000,
            last_used: Timestamp::from_second(400).expect("in range"),
            verdict,
        };
        let plan = GcPlan {
            wanted: 1500,
            steps: vec![
                step("docker.io/library/a:1", Verdict::Remove),
                step("h.x/b:1", Verdict::InUse("web".to_owned())),
                step("h.x/c:1", Verdict::TooYoung),
            ],
        };
        let expected = "\
IMAGE     FREES   LAST USED        VERDICT
a:1       1kB     10 minutes ago   goes
h.x/b:1   1kB     10 minutes ago   stays: in use by container web
h.x/c:1   1kB     10 minutes ago   stays: younger than 2 minutes
disk: 90% used, to come down to 80%: 1.5kB wanted, 1kB would be freed
";
        assert_eq!(told(&plan, 90, &GcPolicy::default(), now), expected);
        let idle = told(&GcPlan { wanted: 0, steps: Vec::new() }, 3, &GcPolicy::default(), now);
        assert!(idle.ends_with("disk: 3% used, less than 85%: nothing would be removed\n"), "{idle}");
    }
}
