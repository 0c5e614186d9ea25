mod cuts;
mod old_reader;
mod plans;
mod properties;
mod table;
