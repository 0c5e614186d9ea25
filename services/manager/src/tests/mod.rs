mod contract;
mod cuts;
mod fakes;
mod lives;
mod records;
mod stories;
