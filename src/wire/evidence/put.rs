//! Protobuf's wire format, as far as records need it.
//!
//! # Standard
//! Protocol Buffers encoding: varints, and length-delimited fields. As `proto3` asks, a field
//! that has its default value is left out, except items of lists.

use std::io::Write;
use std::net::IpAddr;

use super::TEXT_BYTES_MAX;

/// An unsigned integer or enum; nothing when zero.
pub(super) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        varint(out, u64::from(field) << 3);
        varint(out, value);
    }
}

/// An `int64`: two's complement in ten bytes when negative; nothing when zero.
pub(super) fn signed(out: &mut Vec<u8>, field: u32, value: i64) {
    number(out, field, value.cast_unsigned());
}

/// A `bool`; nothing when false.
pub(super) fn flag(out: &mut Vec<u8>, field: u32, value: bool) {
    number(out, field, u64::from(value));
}

/// A `bytes`; nothing when empty.
pub(super) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        delimited(out, field, value);
    }
}

/// A `string`, cut; nothing when empty.
pub(super) fn text(out: &mut Vec<u8>, field: u32, value: &str) {
    bytes(out, field, cut(value).as_bytes());
}

/// One `string` of a list, cut; written even when empty.
pub(super) fn item(out: &mut Vec<u8>, field: u32, value: &str) {
    delimited(out, field, cut(value).as_bytes());
}

/// The id of a trace or span, at most 16 bytes, as lower hex; nothing when all zero.
pub(super) fn trace(out: &mut Vec<u8>, field: u32, id: &[u8]) {
    if id.iter().any(|byte| *byte != 0) {
        let mut hex = [0; 32];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(id) {
            pair.copy_from_slice(&[hex_digit(byte >> 4), hex_digit(byte & 15)]);
        }
        delimited(out, field, hex.get(..2 * id.len()).unwrap_or(&hex));
    }
}

/// An address as text.
pub(super) fn peer(out: &mut Vec<u8>, field: u32, address: Option<IpAddr>) {
    if let Some(address) = address {
        message(out, field, |out| {
            // Writing to a vector does not fail.
            _ = write!(out, "{address}");
        });
    }
}

/// A message, or anything of a length known only once it is written.
///
/// The length goes before the content: one byte is kept for it, and the content moves up in the
/// case that it needs more. Records are small, so that move is cheaper than measuring first.
pub(super) fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(field) << 3 | 2);
    let start = out.len();
    out.push(0);
    write(out);
    let length = out.len() - start - 1;
    let mut prefix = [0; 10];
    let wide = encode(length as u64, &mut prefix);
    // Nearly every one needs one or two.
    match (wide, prefix) {
        (1, [only, ..]) => out[start] = only,
        (2, [first, second, ..]) => {
            out[start] = first;
            out.insert(start + 1, second);
        }
        _ => drop(out.splice(start..=start, prefix.into_iter().take(wide))),
    }
}

/// A varint.
pub(super) fn varint(out: &mut Vec<u8>, value: u64) {
    let mut bytes = [0; 10];
    let wide = encode(value, &mut bytes);
    out.extend(bytes.iter().take(wide));
}

fn delimited(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    varint(out, u64::from(field) << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn encode(mut value: u64, into: &mut [u8; 10]) -> usize {
    let mut wide = 0;
    for slot in into {
        wide += 1;
        // The mask keeps seven bits.
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        *slot = if value == 0 { low } else { low | 0x80 };
        if value == 0 {
            break;
        }
    }
    wide
}

fn cut(text: &str) -> &str {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    end.and_then(|end| text.get(..end)).unwrap_or("")
}

/// The lower-case digit of a number below 16.
pub(super) const fn hex_digit(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }
}
