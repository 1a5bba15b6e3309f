#!/bin/sh
# One base backup of PostgreSQL beside the log that it archives: together they restore any moment since (docs/operations.md).
# $1: the folder, with base/ and log/ in it. How many are kept: $2. PostgreSQL is found by PGHOST and PGUSER.
set -eu
folder=$1 kept=$2
name=$(date -u +%Y%m%dT%H%M%SZ)
mkdir -p "$folder/base" "$folder/log"
rm -rf "$folder/base"/*.part
pg_basebackup --pgdata="$folder/base/$name.part" --format=tar --gzip --wal-method=fetch --checkpoint=fast
mv "$folder/base/$name.part" "$folder/base/$name"
ls -d "$folder/base"/*Z | head -n "-$kept" | xargs -r rm -rf
# Of the log nothing is needed from before the oldest backup that is kept; each begins with a label in the archive, which
# comes a moment after the backup: until the first one is there nothing can be cleaned.
oldest=$(ls "$folder/log" | grep '\.backup$' | tail -n "$kept" | head -n 1)
if [ -n "$oldest" ]; then pg_archivecleanup --clean-backup-history "$folder/log" "$oldest"; fi
echo "backed up to base/$name"
