-- One database per store, so that each can move to a server of its own.
create database warehouse;
create database ledger;
create database online_store;
create database registry;
create database dagster;
