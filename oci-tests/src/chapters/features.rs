//! features.md: the document, and that it tells the truth.

use serde_json::{Value, json};

use crate::check::{Res, Test, ensure, eq, fail, has, same, test};

/// Tests of this chapter.
pub fn tests() -> Vec<Test> {
    features()
}

fn features() -> Vec<Test> {
    let section = "features#document";
    fn document(lab: &crate::lab::Lab) -> Res<Value> {
        let output = lab.call(&["features"]).output()?;
        if output.code != Some(0) {
            return crate::check::skip("the features document is a MAY, and this runtime has none");
        }
        serde_json::from_str(&output.out)
            .or_else(|error| fail(format!("features printed no JSON: {error}")))
    }
    vec![
        test(
            section,
            "F144",
            "ociVersionMin and ociVersionMax are there and are accepted",
            |lab| {
                let document = document(lab)?;
                for key in ["ociVersionMin", "ociVersionMax"] {
                    let version = document[key].clone();
                    ensure(version.is_string(), format!("no {key}"))?;
                    lab.report(move |spec| spec["ociVersion"] = version)?;
                }
                Ok(())
            },
        ),
        test(
            section,
            "F144",
            "the hooks of the document are the six of the specification",
            |lab| {
                let document = document(lab)?;
                same(
                    "hooks",
                    &document["hooks"],
                    json!([
                        "prestart",
                        "createRuntime",
                        "createContainer",
                        "startContainer",
                        "poststart",
                        "poststop"
                    ]),
                )
            },
        ),
        test(section, "F145", "every mount option of the document is recognized", |lab| {
            let document = document(lab)?;
            let mut wrong = Vec::new();
            for option in
                document["mountOptions"].as_array().into_iter().flatten().filter_map(|o| o.as_str())
            {
                if ["remount", "idmap", "ridmap", "bind", "rbind", "tmpcopyup", "mand"]
                    .contains(&option)
                {
                    continue;
                }
                if lab
                    .report(|spec| {
                        crate::lab::bundle::mount(spec, "/data", "tmpfs", "tmpfs", &[option])
                    })
                    .is_err()
                {
                    wrong.push(option.to_owned());
                }
            }
            eq("options that are not recognized", &wrong, &Vec::new())
        }),
        test(
            section,
            "F144",
            "namespaces, capabilities, cgroup and seccomp are described",
            |lab| {
                let document = document(lab)?;
                let linux = &document["linux"];
                has("namespaces", &linux["namespaces"].to_string(), "mount")?;
                has("capabilities", &linux["capabilities"].to_string(), "CAP_SYS_ADMIN")?;
                ensure(linux["cgroup"].is_object(), "no cgroup")?;
                lab.quality(
                    linux["seccomp"]["enabled"] == json!(true),
                    format!("seccomp is {}", linux["seccomp"]),
                )
            },
        ),
    ]
}
