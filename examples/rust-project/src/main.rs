use std::io::{self, Read};

use checksum::{checksum, Crc32};

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() {
        let mut crc = Crc32::new();
        let mut buffer = [0; 65536];
        let mut input = io::stdin().lock();
        loop {
            match input.read(&mut buffer)? {
                0 => break,
                count => crc.update(&buffer[..count]),
            }
        }
        println!("{:08x}  -", crc.finish());
    }
    for argument in arguments {
        println!("{:08x}  {argument}", checksum(argument.as_bytes()));
    }
    Ok(())
}
