//! One current-thread runtime, a task for each connection, the library's own copy.

use std::io;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};

use crate::Way;

const BUFFER_BYTES: usize = 16 * 1024;

pub fn run(ways: Vec<Way>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut tasks = Vec::new();
        for way in ways {
            let listener = TcpListener::from_std(way.listener)?;
            tasks.push(tokio::spawn(async move {
                while let Ok((mut client, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut origin = TcpStream::connect(way.origin).await?;
                        copy_bidirectional_with_sizes(&mut client, &mut origin, BUFFER_BYTES, BUFFER_BYTES).await
                    });
                }
            }));
        }
        for task in tasks {
            let _ = task.await;
        }
        Ok(())
    })
}
