//! Valid properties for the mutations of fuzz/, from the table of the specification.

use serde_json::{Map, Value, json};

pub(crate) use super::schema::{CONFIG, PROCESS};
use super::schema::{Field, Need, Shape};

/// Puts one more property or item into an object or list of `value`, somewhere; `pick` chooses a
/// number below its argument, and `words` is what strings are taken from.
pub(crate) fn grow(
    value: &mut Value,
    shape: &Shape,
    words: &[String],
    pick: &mut dyn FnMut(usize) -> usize,
) {
    match (value, shape) {
        (Value::Object(members), Shape::Object(fields)) => {
            let field = &fields[pick(fields.len())];
            match members.get_mut(field.name) {
                Some(inner) if pick(4) > 0 => grow(inner, &field.shape, words, pick),
                _ => drop(members.insert(field.name.to_owned(), new(&field.shape, words, pick))),
            }
        }
        (Value::Object(members), Shape::Map(shape)) => {
            let key = words[pick(words.len())].clone();
            members.insert(key, new(shape, words, pick));
        }
        (Value::Array(items), Shape::List(shape)) => {
            if items.is_empty() || pick(3) == 0 {
                let item = new(shape, words, pick);
                items.insert(pick(items.len() + 1), item);
            } else {
                let at = pick(items.len());
                grow(&mut items[at], shape, words, pick);
            }
        }
        (value, shape) => *value = new(shape, words, pick),
    }
}

/// The shape of the property at `path`.
pub(crate) fn at(shape: &'static Shape, path: &[&str]) -> &'static Shape {
    path.iter().fold(shape, |shape, name| {
        let Shape::Object(fields) = shape else { return shape };
        fields.iter().find(|field| field.name == *name).map_or(shape, |field| &field.shape)
    })
}

/// A small value of a shape.
fn new(shape: &Shape, words: &[String], pick: &mut dyn FnMut(usize) -> usize) -> Value {
    match shape {
        Shape::Text => json!(words[pick(words.len())]),
        Shape::Bool => json!(pick(2) == 0),
        Shape::Number => json!(pick(4)),
        Shape::List(shape) => (0..=pick(2)).map(|_| new(shape, words, pick)).collect(),
        Shape::Map(_) => json!({}),
        Shape::Object(fields) => {
            let wanted = fields.iter().filter(|field| field.need == Need::Required);
            let member = |field: &Field| (field.name.to_owned(), new(&field.shape, words, pick));
            Value::Object(wanted.map(member).collect::<Map<_, _>>())
        }
    }
}

/// The names of all properties.
pub(crate) fn names(shape: &Shape, names: &mut std::collections::BTreeSet<String>) {
    match shape {
        Shape::Text | Shape::Bool | Shape::Number => {}
        Shape::List(shape) | Shape::Map(shape) => self::names(shape, names),
        Shape::Object(fields) => {
            for field in *fields {
                names.insert(field.name.to_owned());
                self::names(&field.shape, names);
            }
        }
    }
}
