mod contract;
mod cuts;
mod fakes;
mod hints;
mod lives;
mod records;
mod stories;
mod troubles;
