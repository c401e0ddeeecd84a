use std::fs;

use clap::Args;
use runtime::{Call, Container, Context, Report, quote};

use crate::program::Failure;
use crate::session::Session;
use crate::{output, table};

/// List the containers of the state root
#[derive(Debug, Args)]
pub struct List {
    /// table or json
    #[arg(value_name = "format", long, short, default_value = "table")]
    format: String,
    /// Print the names only
    #[arg(long, short)]
    quiet: bool,
}

impl super::Command for List {
    const NAME: &'static str = "list";
    const ARITY: super::Arity = super::Arity::Exactly(0);

    fn run(self, session: &Session) -> Result<u8, Failure> {
        if session.explicit_root {
            // The default root appears with the first container; a named one that is missing is a typo.
            fs::metadata(&session.root).call("stat").context("read", quote(&session.root))?;
        }
        let reports = reports(session)?;
        output::write(&match (self.quiet, self.format.as_str()) {
            (true, _) => reports.iter().map(|report| format!("{}\n", report.id)).collect(),
            (false, "table") => table(&reports),
            // Go's encoder writes a list that was never made as `null`.
            (false, "json") if reports.is_empty() => "null\n".to_owned(),
            (false, "json") => output::json(&reports)? + "\n",
            _ => return Err(Failure::message("invalid format option")),
        })?;
        Ok(0)
    }
}

/// Directories that are no container are mentioned and left out.
fn reports(session: &Session) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    for listing in Container::list(&session.root)? {
        match listing.report {
            Ok(report) => reports.push(report),
            Err(error) => {
                session.log.warning(&format!("load container {}: {error}", listing.id));
            }
        }
    }
    Ok(reports)
}

fn table(reports: &[Report]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = reports.iter().map(|report| {
        [
            report.id.clone(),
            report.pid.to_string(),
            format!("{:?}", report.status).to_lowercase(),
            report.bundle.display().to_string(),
            report.created.clone(),
            report.owner.clone(),
        ]
    });
    table::render(&[header].into_iter().chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn report() -> Report {
        Report {
            oci_version: "1.0.2-dev".into(),
            id: "c1".into(),
            pid: 3654,
            status: runtime::Status::Running,
            bundle: "/tmp/cliw/b".into(),
            rootfs: "/tmp/cliw/b/rootfs".into(),
            created: "2026-11-22T18:25:28.391442511Z".into(),
            annotations: BTreeMap::from([("b".into(), "<1>".into()), ("a".into(), "2".into())]),
            owner: "root".into(),
        }
    }

    /// The expected texts were printed by runc 1.1.5.
    #[test]
    fn forms_are_those_of_runc() {
        assert_eq!(
            table(&[report()]),
            "ID          PID         STATUS      BUNDLE        CREATED                          OWNER\n\
             c1          3654        running     /tmp/cliw/b   2026-11-22T18:25:28.391442511Z   root\n"
        );
        assert_eq!(
            output::json(&[report()]).unwrap(),
            r#"[{"ociVersion":"1.0.2-dev","id":"c1","pid":3654,"status":"running","bundle":"/tmp/cliw/b","rootfs":"/tmp/cliw/b/rootfs","created":"2026-11-22T18:25:28.391442511Z","annotations":{"a":"2","b":"\u003c1\u003e"},"owner":"root"}]"#
        );
        assert!(output::pretty_json(&report(), "  ").unwrap().starts_with(
            "{\n  \"ociVersion\": \"1.0.2-dev\",\n  \"id\": \"c1\",\n  \"pid\": 3654,\n  \"status\": \"running\""
        ));
    }
}
