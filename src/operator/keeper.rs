//! The file that blocks are kept in: read at the start, and written whole by a thread of its own, since a
//! disk may make it wait and the control thread must not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::oneshot;
use tracing::warn;

use super::blocks::Blocks;
use super::message::Denial;
use crate::limits::{MAX_BLOCKS, MAX_BLOCKS_FILE_LEN};
use crate::sandbox::{self, Thread};

const HEAD: &str =
    "# Who is kept out of this gateway. Written by `vestibule block` and `vestibule unblock`.\n\n";

/// Why blocks can't be kept. The operator's to mend.
#[derive(Debug, Error)]
pub enum KeeperError {
    /// The folder.
    #[error("[operator] state: {}: {why}", .folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// What is in the file.
    #[error(
        "[operator] state: {}: {why}; mend it, or move it away and block again: without it, who was kept \
         out would be let in", .file.display()
    )]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No thread.
    #[error("the thread that keeps blocks does not start: {0}")]
    Thread(#[source] io::Error),
}

/// Has blocks written.
#[derive(Debug, Clone)]
pub struct Keeper {
    orders: SyncSender<Order>,
}

#[derive(Debug)]
struct Order {
    blocks: Blocks,
    written: oneshot::Sender<io::Result<()>>,
}

/// The host's clock, in seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Keeper {
    /// Reads what is there, and starts the thread.
    pub fn start(file: &Path) -> Result<(Self, Blocks), KeeperError> {
        let folder = match file.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let opened = check_folder(folder)
            .map_err(|why| KeeperError::Folder { folder: folder.to_owned(), why })?;
        let blocks = read(file).map_err(|why| KeeperError::File { file: file.to_owned(), why })?;
        let (orders, asked) = sync_channel(1);
        let path = file.to_owned();
        let run = move || match sandbox::confine(Thread::Keeper) {
            Ok(()) => obey(&path, &opened, &asked),
            Err(error) => warn!(%error, "blocks can't be kept: their thread can't be confined"),
        };
        let thread = thread::Builder::new().name("keeper".to_owned());
        thread.spawn(run).map_err(KeeperError::Thread)?;
        Ok((Self { orders }, blocks))
    }

    /// Writes these in the place of those before, and waits until the disk has them. An error leaves those
    /// of before. To be called by one at a time.
    pub async fn keep(&self, blocks: &Blocks) -> Result<(), Denial> {
        let (written, waits) = oneshot::channel();
        let lost = || Denial::failed("the thread that keeps blocks has ended; the log says why");
        let order = Order { blocks: blocks.clone(), written };
        self.orders.try_send(order).map_err(|_| lost())?;
        let result = waits.await.map_err(|_| lost())?;
        result.map_err(|error| {
            Denial::failed(format!(
                "nothing was changed: the file of `[operator] state` can't be written ({error})"
            ))
        })
    }
}

/// Nobody else may put a file in the place of ours.
fn check_folder(folder: &Path) -> Result<File, String> {
    let opened = File::open(folder)
        .map_err(|error| format!("{error}; make the folder, for the user of this process"))?;
    let metadata = opened.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_dir() {
        return Err("is no folder".to_owned());
    }
    if metadata.mode() & 0o002 != 0 {
        return Err("everybody may write there: take a folder of this process alone".to_owned());
    }
    Ok(opened)
}

fn read(file: &Path) -> Result<Blocks, String> {
    let metadata = match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Blocks::default()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) => metadata,
    };
    if metadata.len() > MAX_BLOCKS_FILE_LEN {
        return Err(format!("has more than {MAX_BLOCKS_FILE_LEN} bytes"));
    }
    let text = fs::read_to_string(file).map_err(|error| error.to_string())?;
    let blocks: Blocks = toml::from_str(&text).map_err(|error| error.to_string())?;
    if blocks.all().len() > MAX_BLOCKS {
        return Err(format!("has more than {MAX_BLOCKS} blocks"));
    }
    Ok(blocks.unexpired(unix_now()).unwrap_or(blocks))
}

fn obey(file: &Path, folder: &File, asked: &Receiver<Order>) {
    while let Ok(Order { blocks, written }) = asked.recv() {
        // Who asked may have given up; the file is right either way.
        let _ = written.send(write(file, folder, &blocks));
    }
}

/// Beside the file first, so that it is there as a whole or not at all.
fn write(file: &Path, folder: &File, blocks: &Blocks) -> io::Result<()> {
    let text = toml::to_string(blocks).map_err(io::Error::other)?;
    let mut draft = file.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let replaced =
        write_draft(&draft, &(HEAD.to_owned() + &text)).and_then(|()| fs::rename(&draft, file));
    if replaced.is_err() {
        // What is left of it would take room on a disk that is full.
        let _ = fs::remove_file(&draft);
    }
    replaced?;
    if let Err(error) = folder.sync_all() {
        warn!(%error, "the blocks are in their file, and may be lost if the host fails now");
    }
    Ok(())
}

fn write_draft(draft: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::operator::{Block, Target};

    fn block() -> impl Strategy<Value = Block> {
        let device =
            "[a-z][a-z0-9.*:-]{0,20}".prop_map(|name| Target::Device(name.parse().expect("one")));
        let address = any::<[u8; 4]>().prop_map(|ip| {
            let ip = std::net::Ipv4Addr::from(ip);
            Target::Address(ip.to_string().parse().expect("an address"))
        });
        let far = 4_000_000_000u64..5_000_000_000;
        (
            prop_oneof![device, address],
            0u64..4_000_000_000,
            proptest::option::of(far),
            proptest::option::of("\\PC{0,40}"),
        )
            .prop_map(|(target, since, until, why)| Block {
                target,
                since,
                until,
                why,
                by: "anna as root".to_owned(),
            })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(all in proptest::collection::vec(block(), 0..20)) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("blocks.toml");
            let blocks = all.into_iter().fold(Blocks::default(), |b, one| b.with(one).expect("few"));
            let opened = check_folder(folder.path()).expect("our own");
            write(&path, &opened, &blocks).expect("there is room");
            prop_assert_eq!(read(&path), Ok(blocks));
            prop_assert_eq!(fs::read_dir(folder.path()).expect("ours").count(), 1);
        }
    }

    #[test]
    fn a_damaged_file_is_no_empty_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("blocks.toml");
        assert_eq!(read(&path), Ok(Blocks::default()));
        for text in ["[[blocks]]\ndevice = \"a\"\n", "nonsense", "[[block]]\n"] {
            fs::write(&path, text).expect("writable");
            assert!(read(&path).is_err(), "{text}");
        }
    }

    #[test]
    fn a_folder_that_everybody_may_write_to_keeps_no_blocks() {
        let why = check_folder(Path::new("/tmp")).expect_err("everybody's");
        assert!(why.contains("everybody"), "{why}");
    }
}
