//! Protobuf by its wire format, and by the schemas of `proto/`.
//!
//! Mutated messages keep right lengths, so that a change deep inside reaches its reader;
//! arbitrary ones have any fields that their schema allows.

use std::{path::Path, sync::OnceLock};

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

use crate::{
    mutate::{LONGEST, varint},
    random::Random,
};

/// Messages within messages that are made up; readers stop at 100.
const DEPTH: usize = 6;
/// Elements that one change may add, to find what grows with their number.
const MOST_COPIES: usize = 4_000;

#[derive(Clone, Debug)]
struct Field {
    number: u32,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Vec<u8>),
    Nested(Vec<Field>),
}

/// `base` with one to four changes to its fields; what is no message is taken for an empty one.
pub fn mutated(name: &str, base: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut fields = parse(base, DEPTH).unwrap_or_default();
    let other = parse(other, DEPTH).unwrap_or_default();
    for _ in 0..=random.size(3) {
        change(name, inside(&mut fields, random), &other, random);
    }
    let mut bytes = Vec::new();
    write(&fields, &mut bytes);
    bytes
}

/// The fields of the message, or of one within it.
fn inside<'t>(fields: &'t mut Vec<Field>, random: &mut Random) -> &'t mut Vec<Field> {
    let deep: Vec<usize> =
        (0..fields.len()).filter(|at| matches!(fields[*at].value, Value::Nested(_))).collect();
    let chosen = random.pick(&deep).copied().filter(|_| !random.once_in(3));
    if let Some(at) = chosen
        && let Value::Nested(_) = fields[at].value
    {
        return match &mut fields[at].value {
            Value::Nested(inner) => inside(inner, random),
            _ => unreachable!("it was one"),
        };
    }
    fields
}

fn change(name: &str, fields: &mut Vec<Field>, other: &[Field], random: &mut Random) {
    let at = random.below(fields.len());
    match random.below(9) {
        0 if !fields.is_empty() => drop(fields.remove(at)),
        1 if !fields.is_empty() => fields.insert(at, fields[at].clone()),
        2 if !fields.is_empty() => {
            let with = random.below(fields.len());
            fields.swap(at, with);
        }
        3 if !fields.is_empty() && random.once_in(8) => {
            let copy = if random.once_in(2) {
                Field { number: fields[at].number, value: Value::Bytes(Vec::new()) }
            } else {
                fields[at].clone()
            };
            let copies = random.size(MOST_COPIES).min(LONGEST / (2 + size(&copy)));
            fields.extend(std::iter::repeat_n(copy, copies));
        }
        4 if !fields.is_empty() => fields[at].number = 1 + random.size(30) as u32,
        5 => fields.extend(random.pick(other).cloned()),
        6 => {
            let made = parse(&arbitrary(name, random), DEPTH).unwrap_or_default();
            fields.extend(random.pick(&made).cloned());
        }
        _ if !fields.is_empty() => turn(&mut fields[at].value, random),
        _ => {}
    }
}

/// Another value, now and then of another kind.
fn turn(value: &mut Value, random: &mut Random) {
    match value {
        Value::Varint(number) if !random.once_in(8) => *number = random.number(),
        Value::Fixed64(number) if !random.once_in(8) => *number = random.number(),
        Value::Fixed32(number) if !random.once_in(8) => *number = random.number() as u32,
        Value::Bytes(bytes) if !random.once_in(8) => {
            let old = std::mem::take(bytes);
            *bytes = crate::mutate::bytes(&old, &[], random);
        }
        Value::Varint(_)
        | Value::Fixed64(_)
        | Value::Fixed32(_)
        | Value::Bytes(_)
        | Value::Nested(_) => {
            *value = match random.below(4) {
                0 => Value::Varint(random.number()),
                1 => Value::Fixed64(random.number()),
                2 => Value::Fixed32(random.number() as u32),
                _ => Value::Bytes((0..random.size(24)).map(|_| random.byte()).collect()),
            }
        }
    }
}

fn size(field: &Field) -> usize {
    match &field.value {
        Value::Bytes(bytes) => bytes.len(),
        Value::Nested(fields) => fields.iter().map(|field| 2 + size(field)).sum(),
        Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) => 8,
    }
}

fn parse(mut from: &[u8], depth: usize) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !from.is_empty() {
        let tag = read_varint(&mut from)?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| *number > 0)?;
        let value = match tag & 7 {
            0 => Value::Varint(read_varint(&mut from)?),
            1 => Value::Fixed64(u64::from_le_bytes(*from.split_off(..8)?.first_chunk()?)),
            2 => {
                let length = usize::try_from(read_varint(&mut from)?).ok()?;
                let inner = from.split_off(..length)?;
                let nested =
                    if depth > 0 && !inner.is_empty() { parse(inner, depth - 1) } else { None };
                nested.map_or_else(|| Value::Bytes(inner.to_vec()), Value::Nested)
            }
            5 => Value::Fixed32(u32::from_le_bytes(*from.split_off(..4)?.first_chunk()?)),
            _ => return None,
        };
        fields.push(Field { number, value });
    }
    Some(fields)
}

fn read_varint(from: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..10 {
        let byte = *from.split_off_first()?;
        number |= u64::from(byte & 0x7f).checked_shl(7 * place).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn write(fields: &[Field], to: &mut Vec<u8>) {
    for Field { number, value } in fields {
        let mut tag = |wire: u64| to.extend(varint(u64::from(*number) << 3 | wire));
        match value {
            Value::Varint(value) => {
                tag(0);
                to.extend(varint(*value));
            }
            Value::Fixed64(value) => {
                tag(1);
                to.extend(value.to_le_bytes());
            }
            Value::Fixed32(value) => {
                tag(5);
                to.extend(value.to_le_bytes());
            }
            Value::Bytes(bytes) => {
                tag(2);
                to.extend(varint(bytes.len() as u64));
                to.extend(bytes);
            }
            Value::Nested(inner) => {
                tag(2);
                let mut bytes = Vec::new();
                write(inner, &mut bytes);
                to.extend(varint(bytes.len() as u64));
                to.extend(bytes);
            }
        }
    }
}

fn schemas() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
        let files = ["registry/v1/registry", "admin/v1/admin", "kv/v1/kv", "v1/shoal", "v1/pipe"];
        let peers = ["found", "handover", "map", "raft", "session"];
        let peers = peers.map(|name| format!("peer/v1/{name}"));
        let all = files.map(str::to_owned).into_iter().chain(peers);
        let all: Vec<_> = all.map(|name| root.join(format!("shoal/{name}.proto"))).collect();
        let set = protox::compile(all, [root]).expect("the schemas compile");
        DescriptorPool::from_file_descriptor_set(set).expect("the schemas fit together")
    })
}

/// A message of this name with any fields, most of them well-formed.
///
/// # Panics
/// If no schema has the name.
pub fn arbitrary(name: &str, random: &mut Random) -> Vec<u8> {
    let message = schemas().get_message_by_name(name);
    let message = message.unwrap_or_else(|| panic!("no message {name} in proto/"));
    let mut bytes = Vec::new();
    fill(&message, DEPTH, random, &mut bytes);
    bytes
}

/// For each list of messages or texts in the message, or in one within it, `size` bytes of empty
/// elements.
///
/// # Panics
/// If no schema has the name.
pub fn floods(name: &str, size: usize) -> Vec<Vec<u8>> {
    let message = schemas().get_message_by_name(name);
    let message = message.unwrap_or_else(|| panic!("no message {name} in proto/"));
    lists(&message, size, 3)
}

fn lists(message: &MessageDescriptor, size: usize, depth: usize) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for field in message.fields() {
        let tag = varint(u64::from(field.number() << 3 | 2));
        let delimited = matches!(field.kind(), Kind::Message(_) | Kind::String | Kind::Bytes);
        if field.is_list() && delimited {
            let element = [tag.as_slice(), &[0]].concat();
            all.push(element.repeat(size / element.len()));
        }
        if let Kind::Message(inner) = field.kind()
            && depth > 0
        {
            for flood in lists(&inner, size, depth - 1) {
                let length = varint(flood.len() as u64);
                all.push([tag.as_slice(), &length, &flood].concat());
            }
        }
    }
    all
}

fn fill(message: &MessageDescriptor, depth: usize, random: &mut Random, to: &mut Vec<u8>) {
    // All of them, or some: both are common in real messages.
    let all = random.once_in(2);
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        let choices: Vec<_> = oneof.fields().collect();
        if let Some(field) = random.pick(&choices).filter(|_| !random.once_in(8)) {
            put(field, depth, random, to);
        }
    }
    let alone =
        |field: &FieldDescriptor| field.containing_oneof().is_none_or(|oneof| oneof.is_synthetic());
    for field in message.fields().filter(alone) {
        let often =
            if field.is_list() { random.size(4) } else { usize::from(all || random.once_in(2)) };
        for _ in 0..often {
            put(&field, depth, random, to);
        }
    }
}

fn put(field: &FieldDescriptor, depth: usize, random: &mut Random, to: &mut Vec<u8>) {
    let tag = |wire: u32| varint(u64::from(field.number() << 3 | wire));
    let delimited = |bytes: &[u8], to: &mut Vec<u8>| {
        to.extend(tag(2));
        to.extend(varint(bytes.len() as u64));
        to.extend(bytes);
    };
    match field.kind() {
        Kind::Message(inner) if depth > 0 => {
            let mut bytes = Vec::new();
            fill(&inner, depth - 1, random, &mut bytes);
            delimited(&bytes, to);
        }
        Kind::Message(_) => delimited(&[], to),
        Kind::String => delimited(text(random).as_bytes(), to),
        Kind::Bytes => {
            // Identifiers of 128 bits are common.
            let length = if random.once_in(2) { 16 } else { random.size(64) };
            delimited(&(0..length).map(|_| random.byte()).collect::<Vec<_>>(), to);
        }
        Kind::Fixed32 | Kind::Sfixed32 | Kind::Float => {
            to.extend(tag(5));
            to.extend((random.number() as u32).to_le_bytes());
        }
        Kind::Fixed64 | Kind::Sfixed64 | Kind::Double => {
            to.extend(tag(1));
            to.extend(random.number().to_le_bytes());
        }
        Kind::Bool => {
            to.extend(tag(0));
            to.extend(varint(random.below(2) as u64));
        }
        Kind::Enum(values) => {
            let known: Vec<_> = values.values().map(|value| value.number()).collect();
            let number = random.pick(&known).map_or(0, |number| *number as u64);
            let number = if random.once_in(8) { random.number() } else { number };
            to.extend(tag(0));
            to.extend(varint(number));
        }
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 | Kind::Sint32 | Kind::Sint64 => {
            to.extend(tag(0));
            to.extend(varint(random.number()));
        }
    }
}

fn text(random: &mut Random) -> String {
    match random.below(4) {
        0 => format!("{:032x}", u128::from(random.u64())),
        1 => format!("{}.{:016x}", random.size(9), random.u64()),
        2 => format!("node-{}:{}", random.size(9), random.below(70_000)),
        _ => (0..random.size(40)).map(|_| char::from(b' ' + random.byte() % 95)).collect(),
    }
}
