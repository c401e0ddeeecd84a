//! Configurations that are wrong in one place, generated from the schema: each must be refused with the
//! path of that place.

use serde_json::{Map, Value, json};

use super::schema::{self, Need, Shape};
use super::{load_resources, parse_config};
use crate::error::{ErrorKind, Result};
use crate::faults::Faults;

/// One step towards a place in a document.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

type Path = Vec<Step>;

/// A value of the shape with every property.
fn full(shape: &Shape) -> Value {
    match shape {
        Shape::Text => json!("x"),
        Shape::Bool => json!(true),
        Shape::Number => json!(1),
        Shape::List(of) => json!([full(of)]),
        Shape::Map(of) => json!({ "key": full(of) }),
        Shape::Object(fields) => {
            fields.iter().map(|f| (f.name.to_owned(), full(&f.shape))).collect::<Map<_, _>>().into()
        }
    }
}

/// Every place of the shape, with its shape and whether it may be missing.
fn places<'a>(shape: &'a Shape, at: &Path, found: &mut Vec<(Path, &'a Shape, Need)>) {
    let below = |step: Step| at.iter().cloned().chain([step]).collect::<Path>();
    match shape {
        Shape::Text | Shape::Bool | Shape::Number => {}
        Shape::List(of) => {
            found.push((below(Step::Index(0)), of, Need::Optional));
            places(of, &below(Step::Index(0)), found);
        }
        Shape::Map(of) => {
            found.push((below(Step::Key("key".into())), of, Need::Optional));
            places(of, &below(Step::Key("key".into())), found);
        }
        Shape::Object(fields) => {
            for field in *fields {
                let path = below(Step::Key(field.name.into()));
                found.push((path.clone(), &field.shape, field.need));
                places(&field.shape, &path, found);
            }
        }
    }
}

fn at<'v>(document: &'v mut Value, path: &[Step]) -> &'v mut Value {
    path.iter().fold(document, |value, step| match step {
        Step::Key(key) => &mut value[key.as_str()],
        Step::Index(index) => &mut value[*index],
    })
}

/// As errors write it.
fn written(path: &[Step]) -> String {
    path.iter().fold(String::new(), |text, step| match step {
        Step::Key(key) if text.is_empty() => key.clone(),
        Step::Key(key) => format!("{text}.{key}"),
        Step::Index(index) => format!("{text}[{index}]"),
    })
}

/// Values of every JSON type but those of the shape. `null` is a missing value.
fn wrong(shape: &Shape) -> Vec<Value> {
    let right = |value: &Value| match shape {
        Shape::Text => value.is_string(),
        Shape::Bool => value.is_boolean(),
        Shape::Number => value.is_number(),
        Shape::List(_) => value.is_array(),
        Shape::Map(_) | Shape::Object(_) => value.is_object(),
    };
    [json!("text"), json!(false), json!(7), json!(1.5), json!([1]), json!({ "a": {} })]
        .into_iter()
        .filter(|value| !right(value))
        .collect()
}

/// Refused, by a short error that names the place.
fn assert_refused(result: Result<()>, place: &str, document: &str) {
    let error = result.expect_err(&format!("{place} in {document}"));
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = error.to_string();
    assert!(text.contains(place), "{text:?} does not name {place}");
    assert!(text.len() < 1000, "{text}");
}

/// Breaks the full document of `shape` in every place and has it read; returns how often.
fn break_all(shape: &Shape, read: impl Fn(&[u8]) -> Result<()>) -> usize {
    let (mut found, mut count) = (Vec::new(), 0);
    places(shape, &Path::new(), &mut found);
    let mut check = |document: &Value, place: &str| {
        let text = document.to_string();
        assert_refused(read(text.as_bytes()), place, &text);
        count += 1;
    };
    for (path, shape_there, need) in &found {
        for value in wrong(shape_there) {
            let mut document = full(shape);
            *at(&mut document, path) = value;
            check(&document, &written(path));
        }
        if let (Need::Required, Some((Step::Key(key), above))) = (need, path.split_last()) {
            let mut document = full(shape);
            at(&mut document, above).as_object_mut().unwrap().remove(key);
            check(&document, &written(path));
        }
    }
    count
}

#[test]
fn every_property_of_a_wrong_type_or_missing_is_refused_by_its_path() {
    let config = |json: &[u8]| parse_config(json, &mut Vec::new()).map(drop);
    let resources = |json: &[u8]| load_resources(json, &mut Vec::new()).map(drop);
    assert!(break_all(&schema::CONFIG, config) > 1000);
    assert!(break_all(&schema::RESOURCES, resources) > 200);
}

/// Properties that are less than nothing with a meaning.
const SIGNED: [&str; 17] = [
    "process.oomScoreAdj",
    "process.ioPriority.priority",
    "process.scheduler.nice",
    "process.scheduler.priority",
    "linux.timeOffsets.monotonic.secs",
    "linux.devices[0].major",
    "linux.devices[0].minor",
    "linux.resources.devices[0].major",
    "linux.resources.devices[0].minor",
    "linux.resources.memory.limit",
    "linux.resources.memory.reservation",
    "linux.resources.memory.swap",
    "linux.resources.memory.kernel",
    "linux.resources.memory.kernelTCP",
    "linux.resources.cpu.quota",
    "linux.resources.cpu.realtimeRuntime",
    "linux.resources.pids.limit",
];

fn numbers(value: &Value, path: &Path, found: &mut Vec<Path>) {
    let below = |step: Step| path.iter().cloned().chain([step]).collect::<Path>();
    match value {
        Value::Number(_) => found.push(path.clone()),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                numbers(item, &below(Step::Index(n)), found);
            }
        }
        Value::Object(members) => {
            for (key, member) in members {
                numbers(member, &below(Step::Key(key.clone())), found);
            }
        }
        _ => {}
    }
}

#[test]
fn every_number_that_is_broken_or_too_large_or_negative_is_refused_by_its_path() {
    let accept = |json: &[u8]| -> Result<()> {
        let config = parse_config(json, &mut Vec::new())?;
        crate::validate::validate(&config.spec, &mut Faults::First, &mut Vec::new())
    };
    let document: Value = serde_json::from_str(include_str!("numbers.json")).unwrap();
    accept(document.to_string().as_bytes()).unwrap();
    let mut found = Vec::new();
    numbers(&document, &Path::new(), &mut found);
    let mut count = 0;
    for path in &found {
        let place = written(path);
        for number in ["1.5", "18446744073709551616", "1e30", "-1", "-9223372036854775809"] {
            if number == "-1" && SIGNED.contains(&place.as_str()) {
                continue;
            }
            let mut broken = document.clone();
            *at(&mut broken, path) = json!("NUMBER");
            let text = broken.to_string().replace("\"NUMBER\"", number);
            assert_refused(accept(text.as_bytes()), &place, &text);
            count += 1;
        }
    }
    assert!(count > 200, "{count}");
}
