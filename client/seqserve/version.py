"""The client's version: it is told to the service in the User-Agent."""

VERSION = "0.1.0"
