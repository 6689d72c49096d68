//! JSON, changed as JSON: what comes out still parses.

use serde_json::{Map, Value};

use crate::random::Random;

/// None where `base` is no JSON.
pub fn mutated(base: &[u8], other: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut tree: Value = serde_json::from_slice(base).ok()?;
    let other: Value = serde_json::from_slice(other).unwrap_or(Value::Null);
    for _ in 0..=random.size(3) {
        let place = place(&mut tree, random);
        change(place, &other, random);
    }
    serde_json::to_vec(&tree).ok()
}

/// Any place in the tree, the deeper the more likely.
fn place<'t>(tree: &'t mut Value, random: &mut Random) -> &'t mut Value {
    let children = match tree {
        Value::Array(items) => items.len(),
        Value::Object(fields) => fields.len(),
        _ => 0,
    };
    if children == 0 || random.once_in(4) {
        return tree;
    }
    let at = random.below(children);
    match tree {
        Value::Array(items) => place(&mut items[at], random),
        Value::Object(fields) => match fields.values_mut().nth(at) {
            Some(field) => place(field, random),
            None => unreachable!("one of its fields"),
        },
        leaf => leaf,
    }
}

fn change(place: &mut Value, other: &Value, random: &mut Random) {
    match (random.below(6), &mut *place) {
        (0, Value::Object(fields)) => {
            let gone = fields.keys().nth(random.below(fields.len())).cloned();
            gone.into_iter().for_each(|name| drop(fields.remove(&name)));
        }
        (1, Value::Object(fields)) => {
            let (name, value) = (text(random), leaf(random));
            fields.insert(name, value);
        }
        (2, Value::Array(items)) if !items.is_empty() => {
            let copy = items[random.below(items.len())].clone();
            items.extend(std::iter::repeat_n(copy, random.size(200)));
        }
        (3, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (4, _) => *place = part(other, random).clone(),
        (5, Value::String(text)) => {
            let mut at = random.below(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            text.insert_str(at, &self::text(random));
        }
        _ => *place = leaf(random),
    }
}

/// Any part of a tree.
fn part<'t>(tree: &'t Value, random: &mut Random) -> &'t Value {
    let child = match tree {
        Value::Array(items) => items.get(random.below(items.len())),
        Value::Object(fields) => fields.values().nth(random.below(fields.len())),
        _ => None,
    };
    match child {
        Some(child) if !random.once_in(3) => part(child, random),
        Some(_) | None => tree,
    }
}

fn leaf(random: &mut Random) -> Value {
    match random.below(8) {
        0 => Value::Null,
        1 => Value::Bool(random.once_in(2)),
        2 => Value::from(random.number()),
        3 => Value::from(random.number() as i64),
        4 => Value::from(f64::from_bits(random.number())),
        5 => Value::Array(Vec::new()),
        6 => Value::Object(Map::new()),
        _ => Value::from(text(random)),
    }
}

fn text(random: &mut Random) -> String {
    const ODD: [&str; 10] = [
        "",
        "0",
        "-1",
        "\n",
        "\u{0}",
        "a:b",
        "名前",
        "\u{1f980}",
        "1e999",
        "9999999999999999999Ei",
    ];
    match random.below(3) {
        0 => ODD[random.below(ODD.len())].to_owned(),
        1 => random.number().to_string(),
        _ => (0..random.size(80)).map(|_| char::from(b'!' + random.byte() % 94)).collect(),
    }
}
