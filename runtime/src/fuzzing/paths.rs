//! Whether the subject of an error is a place in the document.

use serde_json::Value;

/// Whether `path`, such as `mounts[0].options[1]`, leads to a value of the document, or to a property
/// that an object of the document could have.
pub(super) fn leads_into(document: &Value, path: &str) -> bool {
    if path.is_empty() {
        return true;
    }
    match document {
        Value::Object(members) => {
            let name = path.strip_prefix('.').unwrap_or(path);
            let missing = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            // A long key is quoted in part.
            let cut = name.starts_with("[\"") && name.contains("... (");
            missing
                || cut
                || members.iter().any(|(key, value)| {
                    let quoted = format!("[{key:?}]");
                    [key.as_str(), &quoted].into_iter().any(|step| {
                        name.strip_prefix(step).is_some_and(|rest| {
                            (rest.is_empty() || rest.starts_with(['.', '[']))
                                && leads_into(value, rest)
                        })
                    })
                })
        }
        Value::Array(items) => item(path).is_some_and(|(index, rest)| {
            items.get(index).is_some_and(|value| leads_into(value, rest))
        }),
        _ => false,
    }
}

/// `[3].type` as 3 and `.type`.
fn item(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let document = serde_json::json!({"a": [{"b": 1}], "net.x": {"c": 2}, "x y": 1});
        for (path, expected) in [
            ("a", true),
            ("a[0].b", true),
            ("a[0].missing", true),
            ("a[1]", false),
            ("a[0].b.c", false),
            ("missing", true),
            ("missing.more", false),
            ("[\"net.x\"].c", true),
            ("[\"x y\"]", true),
            ("config.json", false),
            ("\"/a\"", false),
        ] {
            assert_eq!(leads_into(&document, path), expected, "{path}");
        }
    }
}
