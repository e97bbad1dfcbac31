use crate::core::id::LogId;
use crate::spool::format::{
    BlockBuffer, BlockHeader, HEADER_BYTES, SegmentHeader, checksum, parse_segment_name, records,
    segment_name,
};

const LOG: LogId = LogId::from_bytes([0x11; 16]);

fn header() -> SegmentHeader {
    SegmentHeader {
        log: LOG,
        incarnation: [0x22; 16],
        boot_id: [0x33; 16],
        first_seq: 0x0102_0304_0506_0708,
        created_us: -2,
        loss_bound_process: 5,
        loss_bound_host: 6,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Version 1 as bytes. Changing this means that released logs can no longer be read.
#[test]
fn the_format_is_frozen() {
    let bytes = header().to_bytes();
    assert_eq!(bytes.len(), HEADER_BYTES);
    let fixed = "505254525645564c0100000000100000\
                 11111111111111111111111111111111\
                 22222222222222222222222222222222\
                 33333333333333333333333333333333\
                 0807060504030201feffffffffffffff\
                 05000000000000000600000000000000";
    assert_eq!(hex(&bytes[..96]), fixed);
    assert!(bytes[96..HEADER_BYTES - 4].iter().all(|byte| *byte == 0));
    assert_eq!(hex(&bytes[HEADER_BYTES - 4..]), HEADER_CRC);

    let mut block = BlockBuffer::default();
    block.begin(9);
    block.push(b"abc");
    block.push(&[0x5a; 130]);
    let bytes = block.finish(LOG);
    assert_eq!(hex(&bytes[..28]), format!("88000000{BLOCK_CRC}0100020009000000000000000361626382015a5a"));
    assert_eq!(bytes.len(), 160);
    assert!(bytes[156..].iter().all(|byte| *byte == 0));
}

const HEADER_CRC: &str = "32d39724";
const BLOCK_CRC: &str = "95d16e8b";

#[test]
fn a_header_reads_back_and_any_flipped_bit_shows() {
    let bytes = header().to_bytes();
    assert_eq!(SegmentHeader::parse(&bytes), Some(header()));
    for at in (0..100).chain(HEADER_BYTES - 8..HEADER_BYTES) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        assert_eq!(SegmentHeader::parse(&flipped), None, "{at}");
    }
    assert_eq!(SegmentHeader::parse(&bytes[..HEADER_BYTES - 1]), None);
}

#[test]
fn a_block_reads_back_and_belongs_to_its_log() {
    let mut block = BlockBuffer::default();
    block.begin(40);
    let long = vec![7; 20_000];
    for record in [&b""[..], b"x", &long] {
        block.push(record);
    }
    let once = block.finish(LOG).to_vec();
    assert_eq!(block.finish(LOG), once, "finishing twice changes nothing");
    let header = BlockHeader::parse(&once).unwrap();
    assert_eq!((header.first_seq, header.count, header.end_seq()), (40, 3, 43));
    let whole = &once[..header.block_bytes()];
    assert_eq!(checksum(LOG, whole), header.crc);
    assert_ne!(checksum(LogId::from_bytes([0x12; 16]), whole), header.crc);
    let read: Vec<_> = records(&whole[20..]).collect();
    assert_eq!(read, [&b""[..], b"x", &long]);
}

#[test]
fn blocks_are_bounded_in_count_and_bytes() {
    let mut block = BlockBuffer::default();
    block.begin(0);
    while block.fits(1) {
        block.push(b"x");
    }
    assert_eq!(block.count(), 256);
    block.begin(0);
    while block.fits(1000) {
        block.push(&[1; 1000]);
    }
    assert!(block.finish(LOG).len() <= 65_536 + 24);
}

#[test]
fn what_is_no_length_ends_the_records() {
    for payload in [&[5, 1][..], &[0x80], &[0xff; 9], &[0x80, 0x80, 0x80, 0x80, 0]] {
        assert_eq!(records(payload).count(), 0, "{payload:?}");
    }
}

#[test]
fn segment_names_read_back() {
    for first_seq in [0, 1, u64::MAX] {
        assert_eq!(parse_segment_name(&segment_name(first_seq)), Some(first_seq));
    }
    for other in ["seg-1.nev", "seg-0000000000000000000x.nev", "next.tmp", "seg-99999999999999999999.nev"] {
        assert_eq!(parse_segment_name(other), None, "{other}");
    }
}
