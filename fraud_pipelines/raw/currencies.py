"""Active ISO 4217 currencies and their minor units.

Source: ISO 4217:2015 list one, amendment 176. Fund codes, metals and testing codes are left out.
"""

from fraud_pipelines.errors import ContractBroken

_WITHOUT_MINOR_UNIT = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_TWO_DECIMALS = (
    "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF "
    "CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR "
    "MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD "
    "SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD XCG YER "
    "ZAR ZMW ZWG"
)

# Decimals of the amount: how many digits of it are minor units.
EXPONENTS: dict[str, int] = {
    **dict.fromkeys(_WITHOUT_MINOR_UNIT.split(), 0),
    **dict.fromkeys(_TWO_DECIMALS.split(), 2),
    **dict.fromkeys(_THREE_DECIMALS.split(), 3),
}

# Amounts become features without their currency, one unit being 100 minor units: no other currency is taken.
MINOR_DIGITS = 2
USABLE = frozenset(code for code, digits in EXPONENTS.items() if digits == MINOR_DIGITS)


def minor_digits(currency: str) -> int:
    """Decimals of a currency's amounts: 2 for EUR, 0 for JPY, 3 for KWD.

    Raises:
        ContractBroken: not an active ISO 4217 code.
    """
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise ContractBroken(f"currency: expected an ISO 4217 code such as EUR, found {currency!r}.") from None
