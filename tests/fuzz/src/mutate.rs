//! From one input the next: bytes are damaged blindly, or by the shape that they have.

use crate::{
    json, protobuf,
    random::Random,
    targets::{Shape, Target},
};

/// Longest input: what is bounded by its size shows below it.
pub const LONGEST: usize = 80 << 10;
/// Copies of a short piece, to find what grows with the number of elements.
const MOST_COPIES: usize = 2_000;

/// A new input from `base` and whatever else is in the pool.
pub fn next(target: &Target, base: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let parts = target.parts.filter(|_| !random.once_in(4));
    let opened = parts.and_then(|parts| Some((parts, (parts.open)(base)?)));
    let mut made = match opened {
        Some((parts, mut pieces)) => {
            let others = (parts.open)(other).unwrap_or_default();
            rearrange(&mut pieces, &others, random);
            let at = random.below(pieces.len());
            if let Some(piece) = pieces.get_mut(at) {
                let other = random.pick(&others).map_or(other, Vec::as_slice);
                *piece = shaped(target.shape, piece, other, random);
            }
            (parts.close)(&pieces)
        }
        None => shaped(target.shape, base, other, random),
    };
    made.truncate(LONGEST);
    made
}

/// For each list in a message, one with nothing but empty elements: the most memory that its
/// bytes can ask for.
pub fn floods(target: &Target) -> Vec<Vec<u8>> {
    let Shape::Message(name) = target.shape else { return Vec::new() };
    let floods = protobuf::floods(name, LONGEST / 2).into_iter();
    floods
        .map(|flood| target.parts.map_or(flood.clone(), |parts| (parts.close)(&[flood])))
        .collect()
}

/// Pieces come twice, not at all, in another order, or from elsewhere.
fn rearrange(pieces: &mut Vec<Vec<u8>>, others: &[Vec<u8>], random: &mut Random) {
    if pieces.is_empty() || !random.once_in(3) {
        return;
    }
    let at = random.below(pieces.len());
    match random.below(4) {
        0 => drop(pieces.remove(at)),
        1 => pieces.insert(at, pieces[at].clone()),
        2 => {
            let with = random.below(pieces.len());
            pieces.swap(at, with);
        }
        _ => pieces.extend(random.pick(others).cloned()),
    }
}

fn shaped(shape: Shape, base: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    match shape {
        Shape::Message(name) => match random.below(10) {
            0 | 1 => protobuf::arbitrary(name, random),
            2..7 => protobuf::mutated(name, base, other, random),
            _ => bytes(base, other, random),
        },
        Shape::Json if !random.once_in(3) => {
            json::mutated(base, other, random).unwrap_or_else(|| bytes(base, other, random))
        }
        Shape::Json | Shape::Bytes => bytes(base, other, random),
    }
}

/// One to eight blind changes.
pub fn bytes(base: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut made = base.to_vec();
    for _ in 0..=random.size(7) {
        change(&mut made, other, random);
        made.truncate(LONGEST);
    }
    made
}

fn change(made: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(made.len());
    let some = at..(at + random.size(32)).min(made.len());
    match random.below(10) {
        0 => made.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        1 => made.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.byte()),
        2 => made.truncate(at),
        3 => drop(made.drain(some)),
        4 => splice(made, at, other, random),
        5 => overwrite(made, at, random),
        6 => insert(made, at, &varint(random.number())),
        7 => {
            let noise: Vec<u8> = (0..random.size(16)).map(|_| random.byte()).collect();
            insert(made, at, &noise);
        }
        8 => {
            let piece = made[some].to_vec();
            insert(made, at, &piece);
        }
        _ if random.once_in(8) => {
            let copies = random.size(MOST_COPIES);
            let piece = made[some].repeat(copies);
            insert(made, at, &piece[..piece.len().min(LONGEST)]);
        }
        _ => made.iter_mut().skip(at).take(1).for_each(|byte| *byte = byte.wrapping_add(1)),
    }
}

fn insert(made: &mut Vec<u8>, at: usize, piece: &[u8]) {
    made.splice(at..at, piece.iter().copied());
}

/// A stretch of another input, here.
fn splice(made: &mut Vec<u8>, at: usize, other: &[u8], random: &mut Random) {
    let from = random.below(other.len());
    let piece = &other[from..(from + random.size(128)).min(other.len())];
    if random.once_in(2) {
        made.truncate(at);
        made.extend_from_slice(&other[from..]);
    } else {
        insert(made, at, piece);
    }
}

/// An integer of one to eight bytes, either way round.
fn overwrite(made: &mut [u8], at: usize, random: &mut Random) {
    let width = 1 << random.below(4);
    let number = random.number().to_be_bytes();
    let number = &number[8 - width..];
    let little = random.once_in(2);
    for (place, byte) in made.iter_mut().skip(at).take(width).enumerate() {
        *byte = if little { number[width - 1 - place] } else { number[place] };
    }
}

pub fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
