# To be sourced before a release build that goes into an image: with these flags the same sources,
# compiler and libraries of the system give the same bytes, wherever the sources and cargo's home
# lie. They replace flags of the caller, which would change the bytes too. Cargo keeps what is built
# with them beside what is built without: nothing is built in turns.
printf -v CARGO_ENCODED_RUSTFLAGS '%s\x1f%s' "--remap-path-prefix=$PWD=/shoal" \
  "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export CARGO_ENCODED_RUSTFLAGS
# The day that C sources which ask for it are told.
export SOURCE_DATE_EPOCH=0
